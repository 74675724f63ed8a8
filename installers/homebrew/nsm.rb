# Homebrew formula of nsm. HOMEBREW_NSM_RELEASES names where the archives of a release are.
class Nsm < Formula
  desc "Connects this machine to a Network Service Mesh network service"
  homepage "https://networkservicemesh.io"
  version "@VERSION@"
  license "Apache-2.0"

  releases = ENV.fetch("HOMEBREW_NSM_RELEASES") { odie "set HOMEBREW_NSM_RELEASES to where the release is" }

  on_macos do
    on_arm do
      url "#{releases}/nsm-@VERSION@-darwin-arm64.tar.xz"
      sha256 "@SHA256_DARWIN_ARM64@"
    end
    on_intel do
      url "#{releases}/nsm-@VERSION@-darwin-x64.tar.xz"
      sha256 "@SHA256_DARWIN_X64@"
    end
  end
  on_linux do
    on_arm do
      url "#{releases}/nsm-@VERSION@-linux-arm64.tar.xz"
      sha256 "@SHA256_LINUX_ARM64@"
    end
    on_intel do
      url "#{releases}/nsm-@VERSION@-linux-x64.tar.xz"
      sha256 "@SHA256_LINUX_X64@"
    end
  end

  def install
    bin.install "nsm"
    man1.install "nsm.1"
    bash_completion.install "nsm.bash" => "nsm"
    zsh_completion.install "_nsm"
    fish_completion.install "nsm.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/nsm --version")
  end
end
