// Package boot is what a machine's host and its agent agree on before they can
// talk: words on the kernel's command line, the name of the port on which they
// then talk, and a line on the console. It is vocabulary: no code, no imports.
package boot

const (
	// PortParam on the kernel's command line says that the host is reached over
	// the virtio serial port Port, and not over virtual sockets.
	PortParam = "vzcompose.port"
	// Port is the port's name, which the guest finds in sysfs.
	Port = "agent"

	// TemplateParam on the kernel's command line says that this machine is to be
	// saved, and others restored from it: the agent does ahead what it can, makes
	// the memory small, and says Ready.
	TemplateParam = "vzcompose.template"
	// Ready is the line on the console after which the machine may be saved. It
	// is restored there, and does not notice.
	Ready = "vzcompose-agent: ready to be saved"
)
