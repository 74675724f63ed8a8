; The setup program of nsm for Windows [NSIS].
; As the program inside: it starts where that starts.
Target amd64-unicode
!ifdef QUICK
  SetCompress off
!else
  SetCompressor /SOLID lzma
!endif
Name "nsm @VERSION@"
OutFile "@OUTPUT@"
InstallDir "$PROGRAMFILES64\nsm"
RequestExecutionLevel admin
SetDateSave off
!define KEY "Software\Microsoft\Windows\CurrentVersion\Uninstall\nsm"

Page directory
Page instfiles
UninstPage uninstConfirm
UninstPage instfiles

; The folder joins or leaves everybody's PATH by PowerShell: a string of this program holds 1,024 characters, and a longer
; PATH would be cut. Names in percent signs stay names. By its whole path: by its name Windows looks for it beside the setup
; program first, among what was downloaded.
!macro Path expression
  nsExec::Exec "$\"$SYSDIR\WindowsPowerShell\v1.0\powershell.exe$\" -NoProfile -NonInteractive -Command $\"$$at = '$INSTDIR'; \
    $$key = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Environment'; \
    $$path = (Get-Item $$key).GetValue('Path', '', 'DoNotExpandEnvironmentNames'); \
    $$rest = @($$path -split ';' | Where-Object { $$_ -and $$_ -ne $$at }); \
    Set-ItemProperty $$key Path ((${expression}) -join ';') -Type ExpandString$\""
  Pop $0
  ; WM_SETTINGCHANGE to every window: programs that start from then on see it.
  SendMessage 0xffff 0x1a 0 "STR:Environment" /TIMEOUT=5000
!macroend

Section
  SetOutPath "$INSTDIR"
  File nsm.exe
  File nsm.ps1
  File LICENSE.txt
  File THIRD-PARTY-NOTICES.txt
  WriteUninstaller "$INSTDIR\uninstall.exe"
  WriteRegStr HKLM "${KEY}" "DisplayName" "nsm"
  WriteRegStr HKLM "${KEY}" "DisplayVersion" "@VERSION@"
  WriteRegStr HKLM "${KEY}" "Publisher" "The nsm project"
  WriteRegStr HKLM "${KEY}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  !insertmacro Path "$$rest + $$at"
SectionEnd

Section "Uninstall"
  !insertmacro Path "$$rest"
  Delete "$INSTDIR\nsm.exe"
  Delete "$INSTDIR\nsm.ps1"
  Delete "$INSTDIR\LICENSE.txt"
  Delete "$INSTDIR\THIRD-PARTY-NOTICES.txt"
  Delete "$INSTDIR\uninstall.exe"
  RMDir "$INSTDIR"
  DeleteRegKey HKLM "${KEY}"
SectionEnd
