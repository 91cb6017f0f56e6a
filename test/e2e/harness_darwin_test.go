package e2e

// countBoots has nothing to count: machines are made in the shims' processes.
func countBoots(string, string) error { return nil }

// leftovers has not been written for this system, which has no /proc.
func leftovers(string) error { return nil }
