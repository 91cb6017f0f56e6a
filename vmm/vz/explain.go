package vz

import (
	"bytes"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Codes of VZErrorDomain (VZError.h). The file for darwin sees to it that they
// are those of the binding.
const (
	codeConfiguration = 2
	codeLimit         = 6
)

const howToSign = "sign the program after every build: codesign --force --entitlements vmm/vz/vz.entitlements -s - bin/vzcompose (make build does), with " +
	entitlement + " in the file"

const (
	domain      = "VZErrorDomain"
	entitlement = "com.apple.security.virtualization"
)

// entitled says whether the entitlements of a program, as codesign prints them,
// have the one for machines: <key>…</key><true/>.
func entitled(printed []byte) bool {
	_, value, found := bytes.Cut(printed, []byte("<key>"+entitlement+"</key>"))
	return found && bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("<true/>"))
}

// classify gives an error of the framework its class, and a hint where the user
// can do something.
func classify(err error, inDomain string, code int, text string) error {
	switch {
	case inDomain != domain:
		return errs.As(errs.Unavailable, err)
	// A program that is not signed for it has an invalid configuration.
	case code == codeConfiguration && strings.Contains(text, entitlement):
		return errs.WithHint(errs.As(errs.PermissionDenied, err), "%s", howToSign)
	case code == codeConfiguration:
		return errs.As(errs.InvalidArgument, err)
	case code == codeLimit:
		return errs.WithHint(errs.As(errs.ResourceExhausted, err), "stop other virtual machines of this Mac")
	}
	return errs.As(errs.Unavailable, err)
}
