/** `address:port` of a host name or IP address; an IPv6 address stands in brackets. [RFC 3986 3.2.2] */
export function addressText({ address, port }: { readonly address: string; readonly port: number }): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
