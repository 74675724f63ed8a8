/** Agents refuse calls without it: a web page that was made to send a request cannot set it [SPIFFE Workload Endpoint 6]. */
export const securityHeader = 'workload.spiffe.io'
