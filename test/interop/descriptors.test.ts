import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { fromBinary } from '@bufbuild/protobuf'
import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FileDescriptorProto,
  FileDescriptorSetSchema,
} from '@bufbuild/protobuf/wkt'
import { describe, expect, test } from 'vitest'
import { file_connection } from '../../src/nsm/generated/connection_pb.js'
import { file_connectioncontext } from '../../src/nsm/generated/connectioncontext_pb.js'
import { file_ipam } from '../../src/nsm/generated/ipam_pb.js'
import { file_networkservice } from '../../src/nsm/generated/networkservice_pb.js'
import { file_registry } from '../../src/nsm/generated/registry_pb.js'
import { file_workload } from '../../src/nsm/generated/workload_pb.js'

/** The newest version of NSM's own definitions that Go's module proxy gives. */
const theirs = 'github.com/networkservicemesh/api@v1.13.2'
/** SPIFFE's definition of the Workload API; ours has the part that is used. */
const spiffe = 'github.com/spiffe/go-spiffe/v2@v2.1.7'
/** A later version of them has this field; nothing else was added. */
const addedLater = 'connection.MonitorScopeSelector.network_services = 2'

const moduleDir = downloadModule(theirs)
const title = moduleDir === undefined ? `skipped, Go cannot download ${theirs}` : `the definitions of ${theirs}`

describe.skipIf(moduleDir === undefined)(title, () => {
  const files = moduleDir === undefined ? [] : compile(moduleDir)
  const ours = [file_connection, file_connectioncontext, file_networkservice, file_registry, file_ipam]

  test.each(ours.map(({ proto }) => [`${proto.name}`, proto] as const))('%s says the same as theirs', (name, own) => {
    const other = files.find((file) => basename(file.name) === basename(name))
    expect(other, name).toBeDefined()
    if (!other) return
    const lines = linesOf(own)
    expect(lines.length).toBeGreaterThan(5)
    expect(lines.filter((line) => !line.startsWith(addedLater))).toEqual(linesOf(other))
  })
})

const spiffeDir = downloadModule(spiffe)
const spiffeTitle = spiffeDir === undefined ? `skipped, Go cannot download ${spiffe}` : `the definitions of ${spiffe}`

describe.skipIf(spiffeDir === undefined)(spiffeTitle, () => {
  test('workload.proto says nothing else than theirs', () => {
    const [other] =
      spiffeDir === undefined ? [] : compileIn([join(spiffeDir, 'proto/spiffe/workload')], ['workload.proto'])
    const said = new Set(other ? linesOf(other) : [])
    const lines = linesOf(file_workload.proto)
    expect(lines.length).toBeGreaterThan(10)
    expect(lines.filter((line) => !said.has(line))).toEqual([])
  })
})

function downloadModule(module: string): string | undefined {
  try {
    const answer = execFileSync('go', ['mod', 'download', '-json', module], {
      cwd: tmpdir(),
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 60_000,
    })
    const found: unknown = JSON.parse(answer)
    const dir = typeof found === 'object' && found !== null && 'Dir' in found ? found.Dir : undefined
    return typeof dir === 'string' ? dir : undefined
  } catch {
    return undefined
  }
}

function compile(dir: string): FileDescriptorProto[] {
  const folders = ['networkservice', 'registry', 'ipam'].map((folder) => join(dir, 'pkg/api', folder))
  const names = ['networkservice', 'connection', 'connectioncontext', 'registry', 'ipam'].map((name) => `${name}.proto`)
  return compileIn(folders, names)
}

function compileIn(folders: readonly string[], names: readonly string[]): FileDescriptorProto[] {
  const protoc = resolve(import.meta.dirname, '../../node_modules/.bin/protoc')
  const out = mkdtempSync(join(tmpdir(), 'nsm-descriptors-'))
  try {
    const paths = folders.map((folder) => `--proto_path=${folder}`)
    execFileSync(protoc, [...paths, `--descriptor_set_out=${join(out, 'set')}`, ...names])
    return fromBinary(FileDescriptorSetSchema, readFileSync(join(out, 'set'))).file
  } finally {
    rmSync(out, { recursive: true })
  }
}

/** Everything of a file that shows on the wire or in a full method name, one sorted line each. */
function linesOf(file: FileDescriptorProto): string[] {
  const lines = [`package ${file.package} ${file.syntax}`]
  for (const message of file.messageType) lines.push(...messageLines(`${file.package}.${message.name}`, message))
  for (const one of file.enumType) lines.push(...enumLines(`${file.package}.${one.name}`, one))
  for (const service of file.service) {
    for (const { name, inputType, outputType, clientStreaming, serverStreaming } of service.method) {
      const method = `/${file.package}.${service.name}/${name}`
      lines.push(
        `${method} ${clientStreaming ? 'stream ' : ''}${inputType} -> ${serverStreaming ? 'stream ' : ''}${outputType}`,
      )
    }
  }
  return lines.sort()
}

function messageLines(path: string, message: DescriptorProto): string[] {
  return [
    `${path} ${message.options?.mapEntry ? 'map entry' : 'message'}`,
    ...message.field.map(
      (field) =>
        `${path}.${field.name} = ${field.number} ${field.label} ${field.type} ${field.typeName} ${field.jsonName}`,
    ),
    ...message.nestedType.flatMap((nested) => messageLines(`${path}.${nested.name}`, nested)),
    ...message.enumType.flatMap((nested) => enumLines(`${path}.${nested.name}`, nested)),
  ]
}

function enumLines(path: string, one: EnumDescriptorProto): string[] {
  return one.value.map(({ name, number }) => `${path}.${name} = ${number}`)
}
