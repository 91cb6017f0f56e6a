package spec

import (
	"fmt"
	"strings"
)

// split cuts a command into words as a POSIX shell does: blanks separate,
// backslashes and quotes protect. Nothing else is special: no variables, no
// globs, no operators, no comments.
func split(command string) ([]string, error) {
	words := []string{}
	var word strings.Builder
	inWord := false
	for i := 0; i < len(command); i++ {
		switch c := command[i]; c {
		case ' ', '\t', '\n', '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case '\'', '"':
			end, err := quoted(command[i:], &word)
			if err != nil {
				return nil, err
			}
			i += end
			inWord = true
		case '\\':
			if i++; i == len(command) {
				return nil, fmt.Errorf("the command ends in a backslash")
			}
			if command[i] != '\n' {
				word.WriteByte(command[i])
				inWord = true
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// quoted writes what stands between the quote that text begins with and the one
// that ends it, and answers where that is.
func quoted(text string, word *strings.Builder) (int, error) {
	quote := text[0]
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == quote:
			return i, nil
		case c == '\\' && quote == '"' && i+1 < len(text) && strings.IndexByte("$`\"\\\n", text[i+1]) >= 0:
			if i++; text[i] != '\n' {
				word.WriteByte(text[i])
			}
		default:
			word.WriteByte(c)
		}
	}
	return 0, fmt.Errorf("the command has a %c without its partner", quote)
}

// join is the inverse of split.
func join(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsAny(w, " \t\r\n'\"\\$`&|;<>()*?[]#~") {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
