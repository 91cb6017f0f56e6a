package spec

// This file is the table of Compose's keys: every key of the specification, at every
// level, and what becomes of it. docs/compose.md is made of it, and a test holds it
// against the specification's own schema.

// Reasons that several keys have in common.
const (
	whySwarm   = "of a swarm; compose up ignores it too"
	whyBuild   = "of images that are built"
	whyWindows = "of Windows"
	whyTag     = "a name for an engine's objects, which there are none of"
	whyLabel   = "labels of an engine's objects, which there are none of"
	whyAlone   = "each service has a machine of its own, whose kernel shares it out"
)

func composeTop() *composeLevel {
	return &composeLevel{title: "The top", keys: []composeKey{
		{name: "version", fate: ignored, why: "obsolete in Compose"},
		{name: "name", fate: same},
		{name: "include", fate: lowered, why: "read where the files are loaded: each with its own folder and .env", of: composeInclude(), lower: nothing},
		{name: "services", fate: renamed, to: "containers", of: composeService(), lower: lowerServices},
		{name: "networks", fate: same, of: composeNetwork(), lower: each(composeNetwork(), "networks", false)},
		{name: "volumes", fate: same, of: composeVolume(), lower: lowerVolumes},
		{name: "secrets", fate: same, of: composeOrigin("secret"), lower: each(composeOrigin("secret"), "secrets", false)},
		{name: "configs", fate: same, of: composeOrigin("config"), lower: each(composeOrigin("config"), "configs", false)},
		{name: "models", fate: hinted, why: "there is no model runner", do: "serve the model in a service", of: &composeLevel{title: "models.NAME", keys: []composeKey{
			{name: "name", fate: ignored, why: "of a model"}, {name: "model", fate: ignored, why: "of a model"},
			{name: "context_size", fate: ignored, why: "of a model"}, {name: "runtime_flags", fate: ignored, why: "of a model"},
		}}},
		{name: "jobs", fate: refused, why: "there is no scheduler", do: "write a service with a profile, and vzcompose run it"},
	}}
}

func composeInclude() *composeLevel {
	return &composeLevel{title: "include[]", keys: []composeKey{
		{name: "path", fate: lowered, why: "a file, or several that are merged", lower: nothing},
		{name: "project_directory", fate: lowered, why: "where its relative paths start", lower: nothing},
		{name: "env_file", fate: lowered, why: "in place of .env in its folder", lower: nothing},
	}}
}

func nothing(*lowering, entry, *node) {}

func composeNetwork() *composeLevel {
	return &composeLevel{title: "networks.NAME", keys: []composeKey{
		{name: "name", fate: ignored, why: "a network belongs to its stack, which tells it from others"},
		{name: "driver", fate: lowered, why: "bridge and default are what there is; others are a hint, host and none are refused", lower: lowerDriver},
		{name: "driver_opts", fate: lowered, to: "mtu", why: "com.docker.network.driver.mtu; others are ignored", lower: lowerDriverOptions},
		{name: "ipam", fate: lowered, of: &composeLevel{title: "networks.NAME.ipam", keys: []composeKey{
			{name: "driver", fate: ignored, why: "addresses are given out by the stack"},
			{name: "config", fate: lowered, lower: lowerPools, of: &composeLevel{title: "networks.NAME.ipam.config[]", keys: []composeKey{
				{name: "subnet", fate: same}, {name: "gateway", fate: same},
				{name: "ip_range", fate: hinted, why: "addresses are given out from the whole subnet", do: "write ipv4_address in the services that need one"},
				{name: "aux_addresses", fate: ignored, why: "nothing outside of the stack is on the network"},
			}}},
			{name: "options", fate: ignored, why: "of a driver"},
		}}},
		{name: "external", fate: lowered, why: "true is refused: one switch serves one stack", lower: externalNetwork, of: &composeLevel{title: "networks.NAME.external", keys: []composeKey{
			{name: "name", fate: ignored, why: "refused with external"}}}},
		{name: "internal", fate: same},
		{name: "enable_ipv4", fate: ignored, why: "a network has IPv4, unless its one subnet is of IPv6"},
		{name: "enable_ipv6", fate: lowered, why: "IPv6 comes with a subnet of IPv6; without one true is a hint", lower: lowerIPv6},
		{name: "attachable", fate: ignored, why: whySwarm},
		{name: "labels", fate: ignored, why: whyLabel},
	}}
}

func composeVolume() *composeLevel {
	return &composeLevel{title: "volumes.NAME", keys: []composeKey{
		{name: "name", fate: same},
		{name: "driver", fate: lowered, why: "local is what there is; others are refused", lower: volumeDriver},
		{name: "driver_opts", fate: lowered, to: "mounts of services", why: "a bind (type none, o bind, device) and a tmpfs; others are refused", lower: nothing},
		{name: "external", fate: same, lower: externalVolume, of: &composeLevel{title: "volumes.NAME.external", keys: []composeKey{{name: "name", fate: lowered, why: "name of the volume", lower: nothing}}}},
		{name: "labels", fate: ignored, why: whyLabel},
	}}
}

func composeOrigin(what string) *composeLevel {
	external := composeKey{name: "external", fate: lowered, why: "true is refused: there is no store of them", lower: externalOrigin, of: &composeLevel{title: what + "s.NAME.external", keys: []composeKey{
		{name: "name", fate: ignored, why: "refused with external"}}}}
	v := &composeLevel{title: what + "s.NAME", keys: []composeKey{
		{name: "name", fate: ignored, why: whyTag},
		{name: "file", fate: same}, {name: "environment", fate: same},
		external,
		{name: "labels", fate: ignored, why: whyLabel},
		{name: "template_driver", fate: refused, why: "nothing fills templates in", do: "write the text out, or use environment"},
	}}
	if what == "secret" {
		v.keys = append(v.keys,
			composeKey{name: "driver", fate: refused, why: "there is no store of secrets", do: "use file or environment", lower: originDriver},
			composeKey{name: "driver_opts", fate: ignored, why: "refused with driver"})
	} else {
		v.keys = append(v.keys, composeKey{name: "content", fate: same})
	}
	return v
}

func composeService() *composeLevel {
	v := &composeLevel{title: "services.NAME"}
	for _, keys := range [][]composeKey{composeRoot(), composeProcess(), composeRights(), composeLimits(), composeReach(), composeLife()} {
		v.keys = append(v.keys, keys...)
	}
	return v
}

func composeRoot() []composeKey {
	return []composeKey{
		{name: "image", fate: same},
		{name: "build", fate: lowered, why: "images are not built: with image it is pulled, alone it is refused", lower: lowerBuild, of: composeBuild()},
		{name: "pull_policy", fate: renamed, to: "pull", why: "if_not_present is missing; build, daily, weekly and every_ are hints", lower: lowerPull},
		{name: "pull_refresh_after", fate: hinted, why: "an image is pulled where it is missing", do: "vzcompose pull fetches it anew"},
		{name: "platform", fate: same},
		{name: "volumes", fate: renamed, to: "mounts", why: "docker.sock and trees of the host are refused", lower: lowerMounts, of: composeMount()},
		{name: "volumes_from", fate: lowered, to: "mounts", why: "those of the other service, at the same places; it starts before", lower: nothing},
		{name: "tmpfs", fate: lowered, to: "mounts", lower: lowerTmpfs},
		{name: "read_only", fate: same},
		{name: "storage_opt", fate: lowered, to: "writable_layer", why: "size", lower: lowerStorage},
		{name: "configs", fate: same, of: composeGiven("configs"), lower: each(composeGiven("configs"), "configs", true)},
		{name: "secrets", fate: same, of: composeGiven("secrets"), lower: each(composeGiven("secrets"), "secrets", true)},
		{name: "hostname", fate: same},
		{name: "domainname", fate: lowered, to: "dns", why: "the domain of names without a dot", lower: lowerDomain},
		{name: "extends", fate: lowered, why: "read where the file is loaded: the other service is merged under this one", of: &composeLevel{title: "services.NAME.extends", keys: []composeKey{
			{name: "service", fate: lowered, why: "the other service", lower: nothing}, {name: "file", fate: lowered, why: "the file that has it", lower: nothing}}}, lower: nothing},
	}
}

func composeMount() *composeLevel {
	return &composeLevel{title: "services.NAME.volumes[]", keys: []composeKey{
		{name: "type", fate: same, why: "bind, volume and tmpfs; npipe, cluster and image are refused", lower: lowerMountType},
		{name: "source", fate: same},
		{name: "target", fate: renamed, to: "destination"},
		{name: "read_only", fate: lowered, to: "options", why: "ro", lower: option("ro")},
		{name: "consistency", fate: ignored, why: "of Docker Desktop"},
		{name: "bind", fate: lowered, of: &composeLevel{title: "services.NAME.volumes[].bind", keys: []composeKey{
			{name: "propagation", fate: ignored, why: "mounts of the host do not reach into machines"},
			{name: "create_host_path", fate: same},
			{name: "recursive", fate: ignored, why: "what is mounted below the folder on the host is there too"},
			{name: "selinux", fate: ignored, why: "the host labels what the machine's process opens"},
		}}},
		{name: "volume", fate: lowered, of: &composeLevel{title: "services.NAME.volumes[].volume", keys: []composeKey{
			{name: "labels", fate: ignored, why: whyLabel},
			{name: "nocopy", fate: lowered, to: "options", why: "nocopy", lower: option("nocopy")},
			{name: "subpath", fate: refused, why: "a volume is mounted whole", do: "mount the volume, and use a path in it"},
		}}},
		{name: "tmpfs", fate: lowered, of: &composeLevel{title: "services.NAME.volumes[].tmpfs", keys: []composeKey{
			{name: "size", fate: lowered, to: "options", why: "size=", lower: valued("size")},
			{name: "mode", fate: lowered, to: "options", why: "mode=", lower: valued("mode")},
		}}},
		{name: "image", fate: lowered, why: "refused with the type", lower: nothing, of: &composeLevel{title: "services.NAME.volumes[].image", keys: []composeKey{
			{name: "subpath", fate: ignored, why: "refused with the type"}}}},
	}}
}

func composeGiven(what string) *composeLevel {
	return &composeLevel{title: "services.NAME." + what + "[]", keys: []composeKey{
		{name: "source", fate: same}, {name: "target", fate: same}, {name: "uid", fate: same}, {name: "gid", fate: same}, {name: "mode", fate: same},
	}}
}

func composeProcess() []composeKey {
	return []composeKey{
		{name: "command", fate: same, lower: lowerCommand}, {name: "entrypoint", fate: same, lower: lowerCommand},
		{name: "environment", fate: same},
		{name: "env_file", fate: same, lower: each(composeEnvFile(), "env_file", true), of: composeEnvFile()},
		{name: "working_dir", fate: same}, {name: "user", fate: same},
		{name: "tty", fate: same}, {name: "stdin_open", fate: same},
		{name: "init", fate: same},
		{name: "group_add", fate: same, lower: appended("group_add")},
		{name: "umask", fate: hinted, why: "the process has umask 022", do: "set it in the command: sh -c 'umask 002; exec ...'"},
		{name: "stop_signal", fate: same}, {name: "stop_grace_period", fate: same},
		{name: "sysctls", fate: same},
		{name: "ulimits", fate: same, of: &composeLevel{title: "services.NAME.ulimits.NAME", keys: []composeKey{{name: "soft", fate: same}, {name: "hard", fate: same}}}},
		{name: "oom_score_adj", fate: same},
		{name: "oom_kill_disable", fate: hinted, why: "the machine's kernel kills what is above the limit", do: "raise mem_limit"},
	}
}

func composeEnvFile() *composeLevel {
	return &composeLevel{title: "services.NAME.env_file[]", keys: []composeKey{
		{name: "path", fate: same}, {name: "required", fate: same}, {name: "format", fate: same, why: "raw: values are taken as they are"},
	}}
}

func composeRights() []composeKey {
	return []composeKey{
		{name: "privileged", fate: same},
		{name: "cap_add", fate: same, lower: appended("cap_add")}, {name: "cap_drop", fate: same, lower: appended("cap_drop")},
		{name: "security_opt", fate: lowered, to: "seccomp, no_new_privileges, masked_paths, readonly_paths", why: "seccomp, no-new-privileges and systempaths; AppArmor and SELinux of the host do not reach into machines", lower: lowerSecurity},
		{name: "devices", fate: same, why: "devices of the machine's kernel; those of the host are refused", lower: lowerDevices, of: &composeLevel{title: "services.NAME.devices[]", keys: []composeKey{
			{name: "source", fate: lowered, why: "source:target", lower: nothing}, {name: "target", fate: lowered, why: "source:target", lower: nothing}, {name: "permissions", fate: lowered, why: "rwm", lower: nothing}}}},
		{name: "device_cgroup_rules", fate: ignored, why: "a machine has no devices of the host"},
		{name: "gpus", fate: refused, why: "a machine has no GPU", do: "run this service with an engine on the host"},
		{name: "runtime", fate: lowered, why: "runc and the like are a hint; nvidia is refused: a machine has no GPU", lower: lowerRuntime},
		{name: "pid", fate: lowered, why: "private is what there is; host and another service's are refused", lower: namespace("processes")},
		{name: "ipc", fate: lowered, why: "private and shareable are what there is; host is a hint; another service's is refused", lower: lowerIPC},
		{name: "uts", fate: hinted, why: "a machine has a host name of its own", do: "write hostname"},
		{name: "userns_mode", fate: ignored, why: "root of a machine is nobody on the host"},
		{name: "cgroup", fate: ignored, why: "a machine has cgroups of its own"},
		{name: "cgroup_parent", fate: ignored, why: "a machine has cgroups of its own"},
		{name: "isolation", fate: ignored, why: whyWindows},
		{name: "credential_spec", fate: refused, why: whyWindows, do: "leave it out", of: &composeLevel{title: "services.NAME.credential_spec", keys: []composeKey{
			{name: "config", fate: ignored, why: whyWindows}, {name: "file", fate: ignored, why: whyWindows}, {name: "registry", fate: ignored, why: whyWindows}}}},
		{name: "use_api_socket", fate: lowered, why: "true is refused: there is no engine whose socket it could be", lower: lowerAPISocket},
		{name: "models", fate: hinted, why: "there is no model runner", do: "serve the model in a service", of: &composeLevel{title: "services.NAME.models.NAME", keys: []composeKey{
			{name: "endpoint_var", fate: ignored, why: "of a model"}, {name: "model_var", fate: ignored, why: "of a model"}}}},
		{name: "provider", fate: refused, why: "what is not a container cannot be run", do: "start it before, and reach it by host.docker.internal", of: &composeLevel{title: "services.NAME.provider", keys: []composeKey{
			{name: "type", fate: ignored, why: "refused with provider"}, {name: "options", fate: ignored, why: "refused with provider"}}}},
	}
}

func composeLimits() []composeKey {
	weight := func(name string) *composeLevel {
		return &composeLevel{title: "services.NAME.blkio_config." + name + "[]", keys: []composeKey{
			{name: "path", fate: ignored, why: whyAlone}, {name: map[bool]string{true: "weight", false: "rate"}[name == "weight_device"], fate: ignored, why: whyAlone}}}
	}
	return []composeKey{
		{name: "cpus", fate: same, lower: lowerCPUs},
		{name: "cpu_count", fate: renamed, to: "cpus", lower: lowerCPUs},
		{name: "cpu_percent", fate: hinted, why: whyWindows, do: "write cpus"},
		{name: "cpu_shares", fate: hinted, why: whyAlone, do: "write cpus"},
		{name: "cpu_quota", fate: lowered, to: "cpus", why: "divided by cpu_period", lower: lowerQuota},
		{name: "cpu_period", fate: lowered, why: "of cpu_quota", lower: nothing},
		{name: "cpu_rt_period", fate: hinted, why: whyAlone, do: "write cpus"}, {name: "cpu_rt_runtime", fate: hinted, why: whyAlone, do: "write cpus"},
		{name: "cpuset", fate: hinted, why: "the processors of a machine are not those of the host", do: "write cpus"},
		{name: "mem_limit", fate: renamed, to: "memory", lower: lowerMemory},
		{name: "mem_reservation", fate: hinted, why: "the host gives a machine what it uses", do: "mem_limit is the limit"},
		{name: "mem_swappiness", fate: ignored, why: "a machine has no swap"}, {name: "memswap_limit", fate: ignored, why: "a machine has no swap"},
		{name: "pids_limit", fate: hinted, why: "processes of a machine take nothing from others", do: "write ulimits: {nproc: N}"},
		{name: "shm_size", fate: same},
		{name: "blkio_config", fate: hinted, why: whyAlone, of: &composeLevel{title: "services.NAME.blkio_config", keys: []composeKey{
			{name: "weight", fate: ignored, why: whyAlone},
			{name: "weight_device", fate: ignored, why: whyAlone, of: weight("weight_device")},
			{name: "device_read_bps", fate: ignored, why: whyAlone, of: weight("device_read_bps")}, {name: "device_read_iops", fate: ignored, why: whyAlone, of: weight("device_read_iops")},
			{name: "device_write_bps", fate: ignored, why: whyAlone, of: weight("device_write_bps")}, {name: "device_write_iops", fate: ignored, why: whyAlone, of: weight("device_write_iops")},
		}}},
		{name: "deploy", fate: lowered, of: composeDeploy()},
	}
}

func composeDeploy() *composeLevel {
	update := func(name string) composeKey {
		v := &composeLevel{title: "services.NAME.deploy." + name}
		for _, key := range []string{"parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"} {
			v.keys = append(v.keys, composeKey{name: key, fate: ignored, why: whySwarm})
		}
		return composeKey{name: name, fate: ignored, why: whySwarm, of: v}
	}
	device := &composeLevel{title: "services.NAME.deploy.resources.reservations.devices[]"}
	for _, key := range []string{"capabilities", "count", "device_ids", "driver", "options"} {
		device.keys = append(device.keys, composeKey{name: key, fate: ignored, why: "refused with devices"})
	}
	return &composeLevel{title: "services.NAME.deploy", keys: []composeKey{
		{name: "mode", fate: lowered, why: "replicated is what there is; others are a hint", lower: lowerMode},
		{name: "endpoint_mode", fate: ignored, why: whySwarm},
		{name: "replicas", fate: same},
		{name: "labels", fate: ignored, why: whySwarm},
		update("rollback_config"), update("update_config"),
		{name: "resources", fate: lowered, of: &composeLevel{title: "services.NAME.deploy.resources", keys: []composeKey{
			{name: "limits", fate: lowered, of: &composeLevel{title: "services.NAME.deploy.resources.limits", keys: []composeKey{
				{name: "cpus", fate: same, lower: lowerCPUs}, {name: "memory", fate: same, lower: lowerMemory},
				{name: "pids", fate: hinted, why: "processes of a machine take nothing from others", do: "write ulimits: {nproc: N}"},
			}}},
			{name: "reservations", fate: lowered, of: &composeLevel{title: "services.NAME.deploy.resources.reservations", keys: []composeKey{
				{name: "cpus", fate: ignored, why: "the host gives a machine what it uses"}, {name: "memory", fate: ignored, why: "the host gives a machine what it uses"},
				{name: "generic_resources", fate: ignored, why: whySwarm, of: &composeLevel{title: "services.NAME.deploy.resources.reservations.generic_resources[]", keys: []composeKey{
					{name: "discrete_resource_spec", fate: ignored, why: whySwarm, of: &composeLevel{title: "services.NAME.deploy.resources.reservations.generic_resources[].discrete_resource_spec", keys: []composeKey{
						{name: "kind", fate: ignored, why: whySwarm}, {name: "value", fate: ignored, why: whySwarm}}}}}}},
				{name: "devices", fate: refused, why: "a machine has no GPU and no device of the host", do: "run this service with an engine on the host", of: device},
			}}},
		}}},
		{name: "restart_policy", fate: lowered, to: "restart", lower: lowerRestartPolicy, of: &composeLevel{title: "services.NAME.deploy.restart_policy", keys: []composeKey{
			{name: "condition", fate: lowered, to: "restart", why: "none is no, any is always", lower: nothing},
			{name: "max_attempts", fate: lowered, to: "restart", why: "of on-failure", lower: nothing},
			{name: "delay", fate: ignored, why: "0.1 s, then twice that, up to a minute"}, {name: "window", fate: ignored, why: "ten seconds of running begin anew"},
		}}},
		{name: "placement", fate: ignored, why: whySwarm, of: &composeLevel{title: "services.NAME.deploy.placement", keys: []composeKey{
			{name: "constraints", fate: ignored, why: whySwarm},
			{name: "preferences", fate: ignored, why: whySwarm, of: &composeLevel{title: "services.NAME.deploy.placement.preferences[]", keys: []composeKey{{name: "spread", fate: ignored, why: whySwarm}}}},
			{name: "max_replicas_per_node", fate: ignored, why: whySwarm},
		}}},
	}}
}

func composeReach() []composeKey {
	return []composeKey{
		{name: "networks", fate: same, lower: lowerAttachments, of: composeAttachment()},
		{name: "network_mode", fate: lowered, to: "interfaces", why: "none and bridge; host and another's network are refused", lower: lowerNetworkMode},
		{name: "mac_address", fate: lowered, to: "interfaces", why: "of the network default, where no networks are named", lower: lowerMAC},
		{name: "ports", fate: same, why: "without an address they are on all addresses of the host", lower: lowerPorts, of: &composeLevel{title: "services.NAME.ports[]", keys: []composeKey{
			{name: "target", fate: same}, {name: "published", fate: same}, {name: "host_ip", fate: same}, {name: "protocol", fate: same},
			{name: "mode", fate: ignored, why: whySwarm}, {name: "name", fate: ignored, why: "for people"}, {name: "app_protocol", fate: ignored, why: "for people"},
		}}},
		{name: "expose", fate: same, lower: appended("expose")},
		{name: "links", fate: same, lower: appended("links")},
		{name: "external_links", fate: refused, why: "a network belongs to its stack", do: "put both services into one stack, or publish a port and use host.docker.internal"},
		{name: "extra_hosts", fate: renamed, to: "hosts", lower: lowerHosts},
		{name: "dns", fate: lowered, to: "dns", why: "nameservers", lower: lowerDNS("nameservers")},
		{name: "dns_search", fate: lowered, to: "dns", why: "search", lower: lowerDNS("search")},
		{name: "dns_opt", fate: lowered, to: "dns", why: "options", lower: lowerDNS("options")},
	}
}

func composeAttachment() *composeLevel {
	return &composeLevel{title: "services.NAME.networks.NAME", keys: []composeKey{
		{name: "aliases", fate: same, lower: appended("aliases")}, {name: "ipv4_address", fate: same}, {name: "ipv6_address", fate: same}, {name: "mac_address", fate: same},
		{name: "interface_name", fate: hinted, why: "interfaces are eth0, eth1 and so on, in the order of the networks"},
		{name: "link_local_ips", fate: hinted, why: "a machine has the link-local address that follows from its hardware address"},
		{name: "driver_opts", fate: ignored, why: "of a driver"},
		{name: "priority", fate: ignored, why: "the order of the networks is that of the file"}, {name: "gw_priority", fate: ignored, why: "the first network that is not internal has the way out"},
		{name: "use_service_name_alias", fate: ignored, why: "the service's name is a name on its networks"},
	}}
}

func composeLife() []composeKey {
	hook := func(name string) *composeLevel {
		return &composeLevel{title: "services.NAME." + name + "[]", keys: []composeKey{
			{name: "command", fate: same}, {name: "user", fate: same}, {name: "working_dir", fate: same}, {name: "environment", fate: same},
			{name: "privileged", fate: hinted, why: "a hook has the rights of its service", do: "write privileged in the service"},
		}}
	}
	before := hook("pre_start")
	for _, key := range []string{"image", "per_replica"} {
		before.keys = append(before.keys, composeKey{name: key, fate: ignored, why: "refused with pre_start"})
	}
	health := &composeLevel{title: "services.NAME.healthcheck"}
	for _, key := range []string{"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"} {
		health.keys = append(health.keys, composeKey{name: key, fate: same})
	}
	depends := &composeLevel{title: "services.NAME.depends_on.NAME", keys: []composeKey{
		{name: "condition", fate: same}, {name: "required", fate: same}, {name: "restart", fate: same}}}
	watch := &composeLevel{title: "services.NAME.develop.watch[]"}
	for _, key := range []string{"ignore", "include", "path", "action", "target", "exec", "initial_sync"} {
		watch.keys = append(watch.keys, composeKey{name: key, fate: ignored, why: "of compose watch"})
	}
	return []composeKey{
		{name: "container_name", fate: same},
		{name: "depends_on", fate: same, lower: each(depends, "depends_on", true), of: depends},
		{name: "restart", fate: same, why: "deploy.restart_policy goes before it", lower: lowerRestart},
		{name: "healthcheck", fate: same, lower: below(health), of: health},
		{name: "post_start", fate: lowered, to: "hooks", lower: lowerHooks(hook("post_start")), of: hook("post_start")},
		{name: "pre_stop", fate: lowered, to: "hooks", lower: lowerHooks(hook("pre_stop")), of: hook("pre_stop")},
		{name: "pre_start", fate: refused, why: "nothing runs before the service's own process", do: "write a service that runs to its end, and depends_on it with service_completed_successfully", of: before},
		{name: "scale", fate: renamed, to: "replicas"},
		{name: "profiles", fate: same, lower: appended("profiles")},
		{name: "labels", fate: same}, {name: "annotations", fate: ignored, why: whyLabel},
		{name: "label_file", fate: hinted, why: "labels are read from the stack file alone", do: "write labels"},
		{name: "logging", fate: lowered, to: "logging", lower: lowerLogging, of: &composeLevel{title: "services.NAME.logging", keys: []composeKey{
			{name: "driver", fate: lowered, why: "json-file and local are what there is; others are a hint", lower: nothing},
			{name: "options", fate: lowered, to: "logging", why: "max-size and max-file", lower: nothing},
		}}},
		{name: "attach", fate: ignored, why: "an attached up shows what every service says"},
		{name: "develop", fate: ignored, why: "of compose watch", of: &composeLevel{title: "services.NAME.develop", keys: []composeKey{{name: "watch", fate: ignored, why: "of compose watch", of: watch}}}},
	}
}

func composeBuild() *composeLevel {
	v := &composeLevel{title: "services.NAME.build"}
	for _, key := range []string{
		"context", "dockerfile", "dockerfile_inline", "entitlements", "args", "ssh", "labels", "cache_from", "cache_to", "no_cache", "no_cache_filter",
		"additional_contexts", "network", "provenance", "sbom", "pull", "target", "shm_size", "extra_hosts", "isolation", "privileged", "secrets", "tags", "ulimits", "platforms",
	} {
		v.keys = append(v.keys, composeKey{name: key, fate: ignored, why: whyBuild})
	}
	return v
}
