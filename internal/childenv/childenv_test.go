package childenv

import (
	"slices"
	"strings"
	"testing"
)

func TestSecretsAreNotPassedOn(t *testing.T) {
	for _, secret := range []string{"AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "DOCKER_CONFIG", "VZCOMPOSE_SECRET", "PATHS", "path"} {
		t.Setenv(secret, "hunter2")
	}
	t.Setenv("VZCOMPOSE_QEMU", "/opt/qemu")
	t.Setenv("TZ", "") // set and empty is not unset
	env := List()
	for _, want := range []string{"VZCOMPOSE_QEMU=/opt/qemu", "TZ="} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
	if i := slices.IndexFunc(env, func(kv string) bool { return strings.Contains(kv, "hunter2") }); i >= 0 {
		t.Errorf("%s is passed on", env[i])
	}
}
