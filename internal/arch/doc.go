// Package arch holds the rules on the shape of this module as tests: which room
// may import which, which rooms are pure, who may print, and a few habits that
// a reader should not have to check. Every message gives the rule's reason.
//
// It reads source text and resolves names; it builds nothing and applies no
// build constraints, so that the files of every operating system are checked
// on each. Files marked "ignore" are programs of their own and are left out.
package arch
