package spec

import "encoding/json"

//go:generate go test -run TestSchemaFileIsMadeFromTheKeys -update .

// schemaJSON answers the JSON schema of stack files, made from the same table of
// keys that reads them.
func schemaJSON() ([]byte, error) {
	s := with(stackKeys().schema(), schemaDoc{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "vzcompose stack",
		"description": "A stack of containers, each in a virtual machine of its own.",
		"type":        "object",
		"$defs":       schemaDoc{"container": containerKeys().schema()},
	})
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}
