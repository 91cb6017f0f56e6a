//go:build linux

package qemu

import (
	"fmt"

	"github.com/vzcompose/vzcompose/vmm"
)

// bays are the disk drives that a template has, with nothing in them: each says
// whether it is read-only, which the guest's driver has learnt once and for all.
// A machine restored from it has disks there, which costs nothing: a serial
// number is asked for whenever somebody wants to know it, so the agent finds
// them. What is saved of a drive is its queue, not its size: the guest believes
// in baySize, and filesystems know their own.
var bays = [...]struct{ readOnly bool }{{true}, {false}, {false}, {false}}

// baySize is what an empty bay says of its size, in bytes. It is more than any
// disk has, since the guest refuses what lies beyond.
const baySize = 1 << 44

// fillBays puts disks into bays, and answers those for which there was none.
func fillBays(disks []vmm.Disk) (in [len(bays)]*vmm.Disk, rest []vmm.Disk) {
next:
	for _, d := range disks {
		for i, bay := range bays {
			if in[i] == nil && bay.readOnly == d.ReadOnly {
				in[i] = &d
				continue next
			}
		}
		rest = append(rest, d)
	}
	return in, rest
}

// bayID stands for the ID of the disk that is not in bay i. No disk has it.
func bayID(i int) string { return fmt.Sprintf("bay.%d", i) }

// bayDisk is the block device of bay i, with d in it or nothing.
func bayDisk(i int, d *vmm.Disk) map[string]any {
	if d != nil {
		return blockdev(*d)
	}
	return map[string]any{"driver": "null-co", "node-name": nodeName(bayID(i)), "size": baySize, "read-zeroes": true,
		"read-only": bays[i].readOnly}
}

// bayDevice is the drive of bay i. The sizes of blocks are told, because QEMU
// would take them from the file, and they are saved.
func bayDevice(i int, d *vmm.Disk) map[string]any {
	dev := map[string]any{"driver": "virtio-blk-pci", "id": deviceName(bayID(i)), "drive": nodeName(bayID(i)), "bus": "pcie.0",
		"addr": slot(slotDisks + i), "num-queues": 1, "logical_block_size": 512, "physical_block_size": 512}
	if d != nil {
		dev["id"], dev["drive"], dev["serial"] = deviceName(d.ID), nodeName(d.ID), d.ID
	}
	return dev
}
