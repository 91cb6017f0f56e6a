package spec

import (
	"bytes"
	"os"
	"testing"

	"github.com/vzcompose/vzcompose/schema"
)

const schemaFile = "../schema/vzcompose.schema.json"

func TestSchemaFileIsMadeFromTheKeys(t *testing.T) {
	want, err := schemaJSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(schema.JSON(), want) {
		t.Errorf("%s is not what the keys make; run: go generate ./spec", schemaFile)
	}
}
