package spec

// A stack file may come from anywhere, so everything that it can make large has
// a bound. The bounds are far above what a person writes.
const (
	maxFileBytes   = 4 << 20  // of one stack file or env file
	maxKeyBytes    = 1 << 10  // of one mapping key
	maxDepth       = 64       // of nesting in one file
	maxNodes       = 1 << 20  // that are read after aliases and merges
	maxExpansion   = 16 << 20 // bytes that interpolation may write, in all
	maxNesting     = 16       // of ${A:-${B:-...}}
	maxErrors      = 200      // that one run reports
	maxWarnings    = 100
	maxSourceRunes = 500     // a longer line is not repeated in a finding
	maxLocateBytes = 1 << 18 // a larger file keeps the parser's own line number
)
