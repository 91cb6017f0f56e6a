// Package schema holds the JSON schema of stack files (draft 2020-12), for
// editors. It is generated from the table of keys that package spec reads files
// by; "go generate ./spec" writes it anew.
package schema

import (
	_ "embed"
)

//go:embed vzcompose.schema.json
var text string

// JSON answers the schema. The caller owns the bytes.
func JSON() []byte { return []byte(text) }
