package spec

import "slices"

func volumes() kind[map[string]Volume] {
	const disk = "a volume is a disk; give it a size"
	return named("volume", (&object[Volume]{
		fields: []field[Volume]{
			key("size", "What the container sees. Default: 8GiB. The host stores what is used.",
				unlessZero(size(minVolume, 4096, "the least that holds a filesystem")), func(v *Volume) *uint64 { return &v.Size }),
			key("external", "It is no stack's: vzcompose volume create makes it, and it stays. Default: false.",
				unlessZero(boolean()), func(v *Volume) *bool { return &v.External }),
			key("name", "What it is called outside of the file. Default: its key.", nameOf("volume"),
				func(v *Volume) *string { return &v.name }),
			instead[Volume]("driver", disk), instead[Volume]("driver_opts", disk),
		},
		finish: func(w *walker, n *node, at *trail, v *Volume) bool {
			if v.External && n.said("size") {
				w.error(n.entry("size").key, at, "leave it out", "an external volume has the size that it was made with")
				return false
			}
			if !v.External && v.Size == 0 {
				v.Size = DefaultVolumeSize
			}
			return true
		},
	}).kind())
}

// volumeName is what the volume of a key is called outside of the file.
func (c *checker) volumeName(key string) string {
	if name := c.file.volumes[key].name; name != "" {
		return name
	}
	return key
}

// mounted are mounts with volumes under their own names.
func (c *checker) mounted(mounts []Mount) []Mount {
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type == "volume" {
			out[i].Source, out[i].External = c.volumeName(m.Source), c.file.volumes[m.Source].External
		}
	}
	return out
}
