import { refusal } from './refusal.ts'

/** PEM text of certificates, in order. */
export function certificatesToPem(certificates: readonly Uint8Array[]): string {
  return certificates.map(toPem).join('')
}

/** DER of every CERTIFICATE block of a PEM text, in order; throws `IDENTITY` when there is none or one is broken. */
export function certificatesFromPem(pem: string): Uint8Array[] {
  const blocks = [...pem.matchAll(certificateBlock)].map(([, body = '']) => body.replaceAll(/\s/g, ''))
  if (blocks.length === 0 || blocks.some((body) => !base64.test(body))) {
    throw refusal('CERTIFICATE_INVALID', 'the text holds no readable PEM certificate', {
      next: 'give a file with -----BEGIN CERTIFICATE----- blocks',
    })
  }
  return blocks.map((body) => Buffer.from(body, 'base64'))
}

const certificateBlock = /-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----/g
const base64 = /^[A-Za-z0-9+/]+={0,2}$/

function toPem(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}
