/* One redactor before every sink [security L14]: names of fields, and shapes of values. */

/** True for the name of a field whose value never leaves the process, whatever it is. */
export function isSecretField(name: string): boolean {
  return secretField.test(name)
}

/** True for text that holds something of the shape of a secret. */
export function hasSecret(text: string): boolean {
  return secretValue.test(text)
}

const secretField = /key|token|secret|password|svid|joinstring|authorization|csr/i

/** A compact JWT, a PEM private key, 32 bytes in base64, a join token, a bearer's header, a named secret of a form or JSON text. */
const secretValue = new RegExp(
  [
    // A word is looked at once, from its beginning: text of a peer may be one long word.
    String.raw`(?<![\w-])(?=[\w-]*eyJ[\w-])[\w-]+\.[\w-]+\.`,
    '-----BEGIN [A-Z ]*PRIVATE KEY',
    '(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=',
    '[?&]jt=',
    String.raw`\b[Bb]earer\s+[\w.~+/-]{8}`,
    String.raw`\b(?:access_token|refresh_token|id_token|client_secret|device_code|user_code|password)["']?\s*[=:]\s*["']?[^\s"',]`,
    String.raw`\bkey\W{0,4}[0-9a-fA-F]{64}`,
  ].join('|'),
)
