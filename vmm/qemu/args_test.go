//go:build linux

package qemu

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/vmm"
)

// instanceConfig is a machine with n disks, all of whose names can be told: every
// third is read-only, the first one too.
func instanceConfig(n int) *vmm.Config {
	cfg := &vmm.Config{Name: "instance,1", CPUs: 2, Memory: 256 << 20, Kernel: "/k/vmlinux", Initramfs: "/k/initramfs",
		KernelArgs: []string{"extra=1"}, Console: "/instance/console"}
	for i := range n {
		cfg.Disks = append(cfg.Disks, vmm.Disk{ID: fmt.Sprintf("disk%d", i), Path: fmt.Sprintf("/instance/%d.img", i), ReadOnly: i%3 == 0})
	}
	return cfg
}

// argsOf is the command line, as words and as the values of its flags.
func argsOf(t *testing.T, cfg *vmm.Config, h host, b birth) (words []string, flags map[string][]string) {
	t.Helper()
	words, err := arguments(cfg, h, b)
	if err != nil {
		t.Fatal(err)
	}
	flags = map[string][]string{}
	for i, w := range words {
		if strings.HasPrefix(w, "-") {
			flags[w] = append(flags[w], "")
			if i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				flags[w][len(flags[w])-1] = words[i+1]
			}
		}
	}
	return words, flags
}

// decode reads the values of a flag that are JSON.
func decode(t *testing.T, values []string) (all []map[string]any) {
	t.Helper()
	for _, v := range values {
		var m map[string]any
		if err := json.Unmarshal([]byte(v), &m); err != nil {
			t.Fatalf("%v: %s", err, v)
		}
		all = append(all, m)
	}
	return all
}

var hosts = []host{{accel: TCG, arch: "amd64"}, {accel: KVM, arch: "amd64"}, {accel: TCG, arch: "arm64"}, {accel: KVM, arch: "arm64", strict: true}}

// A state is loaded into the devices from which it was saved, or not at all:
// those of a template are in every machine that is restored from it, in the same
// order and places, and what else a machine has comes after them.
func TestARestoredMachineHasTheDevicesOfItsTemplate(t *testing.T) {
	for _, h := range hosts {
		for n := range 8 {
			words, template := argsOf(t, instanceConfig(0), h, asTemplate)
			cfg := instanceConfig(n)
			_, restored := argsOf(t, cfg, h, asRestored)
			for _, flag := range []string{"-machine", "-accel", "-cpu", "-smp", "-m", "-chardev", "-serial", "-mon", "-sandbox"} {
				if !slices.Equal(template[flag], restored[flag]) {
					t.Errorf("%v: %s is %q in the template, %q restored", h, flag, template[flag], restored[flag])
				}
			}
			was, is := decode(t, template["-device"]), decode(t, restored["-device"])
			if len(is) < len(was) {
				t.Fatalf("%v: %d devices, the template has %d", h, len(is), len(was))
			}
			for i, d := range was {
				if want, got := placeOf(d), placeOf(is[i]); !maps.Equal(want, got) {
					t.Errorf("%v, %d disks: device %d is %v, %v in the template", h, n, i, got, want)
				}
				if d["bus"] == "pcie.0" && d["addr"] == nil {
					t.Errorf("%v: QEMU chooses the place of %v", h, d)
				}
			}
			diskless(t, h, words)
			everyDisk(t, cfg, restored, len(is)-len(was))
		}
	}
}

// placeOf is what of a device must be the same: all but what it is called and
// what is in it. A guest asks for a serial number whenever it wants it.
func placeOf(d map[string]any) map[string]any {
	d = maps.Clone(d)
	if d["driver"] == "virtio-blk-pci" {
		delete(d, "id")
		delete(d, "drive")
		delete(d, "serial")
	}
	return d
}

// diskless expects nothing of an instance in a template's command line.
func diskless(t *testing.T, h host, words []string) {
	t.Helper()
	all := strings.Join(words, " ")
	for _, w := range []string{"/instance", "disk0", "-incoming"} {
		if strings.Contains(all, w) {
			t.Errorf("%v: a template has %q: %s", h, w, all)
		}
	}
	if !strings.Contains(all, boot.TemplateParam) {
		t.Errorf("%v: the agent is not told that it is a template's: %s", h, all)
	}
}

// everyDisk expects each disk of cfg just once, with its ID, its file and its
// being read-only, and extra devices for those without a bay.
func everyDisk(t *testing.T, cfg *vmm.Config, flags map[string][]string, extra int) {
	t.Helper()
	nodes := map[any]map[string]any{}
	for _, n := range decode(t, flags["-blockdev"]) {
		if nodes[n["node-name"]] != nil {
			t.Errorf("two nodes %v", n["node-name"])
		}
		nodes[n["node-name"]] = n
	}
	drives := map[any]map[string]any{}
	for _, d := range decode(t, flags["-device"]) {
		if d["driver"] == "virtio-blk-pci" && d["serial"] != nil {
			drives[d["serial"]] = d
		}
	}
	if len(drives) != len(cfg.Disks) {
		t.Errorf("%d disks, %d drives that have one", len(cfg.Disks), len(drives))
	}
	var readOnly, writable int
	for _, d := range cfg.Disks {
		node := nodes[drives[d.ID]["drive"]]
		file, _ := node["file"].(map[string]any)
		if node["read-only"] != d.ReadOnly || file["filename"] != d.Path || file["read-only"] != d.ReadOnly {
			t.Errorf("disk %s, read-only %v: its node is %v", d.ID, d.ReadOnly, node)
		}
		if d.ReadOnly {
			readOnly++
		} else {
			writable++
		}
	}
	if want := max(0, readOnly-1) + max(0, writable-3); extra != want {
		t.Errorf("%d read-only and %d writable disks: %d devices more than the template, want %d", readOnly, writable, extra, want)
	}
}

// The places of a template's devices are taken once.
func TestNoTwoDevicesAreInOnePlace(t *testing.T) {
	for _, b := range []birth{asBooted, asTemplate, asRestored} {
		_, flags := argsOf(t, instanceConfig(7), hosts[0], b)
		taken := map[string]bool{}
		for _, d := range decode(t, flags["-device"]) {
			if addr, ok := d["addr"].(string); ok {
				if place := fmt.Sprint(d["bus"], " ", addr); taken[place] {
					t.Errorf("two devices at %s", place)
				} else {
					taken[place] = true
				}
			}
		}
	}
}

// A machine that boots has its disks and no empty bays, and its own RAM.
func TestABootedMachineHasNoBays(t *testing.T) {
	for n := range 6 {
		cfg := instanceConfig(n)
		words, flags := argsOf(t, cfg, hosts[0], asBooted)
		drives := 0
		for _, d := range decode(t, flags["-device"]) {
			if d["driver"] == "virtio-blk-pci" {
				drives++
			}
		}
		if drives != n || len(flags["-blockdev"]) != n || strings.Contains(strings.Join(words, " "), "bay.") {
			t.Errorf("%d disks: %q", n, words)
		}
		if all := strings.Join(words, " "); strings.Contains(all, boot.TemplateParam) || strings.Contains(all, "mem-path") || strings.Contains(all, "-incoming") {
			t.Errorf("it is said to be of a template: %s", all)
		}
	}
}

// What is not in one row is not in the machine: a kernel where it boots, the RAM
// of the template privately where it is restored.
func TestHowAMachineComesToBe(t *testing.T) {
	for b, want := range map[birth]struct{ kernel, ram, share string }{
		asBooted:   {"/k/vmlinux", "memory-backend-ram", "<nil>"},
		asTemplate: {"/k/vmlinux", "memory-backend-file", "true"},
		asRestored: {"", "memory-backend-file", "false"},
	} {
		_, flags := argsOf(t, instanceConfig(1), hosts[0], b)
		if got := strings.Join(flags["-kernel"], " "); got != want.kernel {
			t.Errorf("%d: the kernel is %q, want %q", b, got, want.kernel)
		}
		ram := decode(t, flags["-object"])[0]
		if ram["qom-type"] != want.ram || fmt.Sprint(ram["share"]) != want.share || ram["size"] != float64(256<<20) {
			t.Errorf("%d: the RAM is %v", b, ram)
		}
		if ram["reserve"] != false {
			t.Errorf("%d: the RAM is reserved: %v", b, ram)
		}
		if waits := flags["-incoming"] != nil && flags["-S"] != nil; waits != (b == asRestored) {
			t.Errorf("%d: it waits for a state: %v", b, waits)
		}
		if got := flags["-name"][0]; got != "vzcompose-instance,,1" {
			t.Errorf("%d: its name is %q", b, got)
		}
		again, err := arguments(instanceConfig(1), hosts[0], b)
		words, _ := argsOf(t, instanceConfig(1), hosts[0], b)
		if err != nil || !slices.Equal(words, again) {
			t.Errorf("%d: the same inputs, other words", b)
		}
	}
}

// A host that counts mapped memory as used has QEMU refuse to leave it unreserved.
func TestStrictHost(t *testing.T) {
	_, flags := argsOf(t, instanceConfig(1), host{accel: TCG, arch: "amd64", strict: true}, asBooted)
	if ram := decode(t, flags["-object"])[0]; ram["reserve"] != nil {
		t.Errorf("the RAM is %v", ram)
	}
}

func TestFillBays(t *testing.T) {
	disk := func(id string, readOnly bool) vmm.Disk { return vmm.Disk{ID: id, ReadOnly: readOnly} }
	in, rest := fillBays([]vmm.Disk{disk("w1", false), disk("r1", true), disk("w2", false), disk("r2", true), disk("w3", false), disk("w4", false)})
	got := ""
	for i, d := range in {
		if d == nil || d.ReadOnly != bays[i].readOnly {
			t.Fatalf("bay %d has %v", i, d)
		}
		got += d.ID + " "
	}
	for _, d := range rest {
		got += "+" + d.ID + " "
	}
	if want := "r1 w1 w2 w3 +r2 +w4 "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
