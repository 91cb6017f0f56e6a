// Package warm is what a machine that is to be saved as a template and its host
// say to each other, on the machine's console: it is there before anything else
// and needs no device of its own. It is vocabulary: no code, no imports.
//
//	guest → host  Ready    everything that can be done ahead is done: save me
//	host → guest  Wake     you have been restored, and have new devices
//	guest → host  Awake    they are found
//
// Each is a line. What else the console carries is for people.
package warm

const (
	// Param on the kernel's command line makes the agent prepare itself and
	// wait for Wake instead of serving at once.
	Param = "vzcompose.template"

	Ready = "vzcompose-agent: ready to be saved"
	Wake  = "wake"
	Awake = "vzcompose-agent: awake"
)
