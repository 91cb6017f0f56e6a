package composetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How long a file of 60 services takes to load, in both readers.
func BenchmarkLoad(b *testing.B) {
	p := project{dir: b.TempDir(), env: map[string]string{"TAG": "1.2"}}
	if err := os.WriteFile(filepath.Join(p.dir, "compose.yaml"), []byte(large(60)), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "app.env"), []byte("A=1\nB=two\nC=${TAG}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(p.dir, "site"), 0o755); err != nil {
		b.Fatal(err)
	}
	b.Run("vzcompose", func(b *testing.B) {
		defer processor(b)()
		for b.Loop() {
			loaded, err := p.ours()
			if err != nil {
				b.Fatal(err)
			}
			if len(loaded.Stack.Containers) != 60 {
				b.Fatalf("%d containers", len(loaded.Stack.Containers))
			}
		}
	})
	b.Run("compose-go", func(b *testing.B) {
		defer processor(b)()
		for b.Loop() {
			project, err := p.theirs()
			if err != nil {
				b.Fatal(err)
			}
			if len(project.Services) != 60 {
				b.Fatalf("%d services", len(project.Services))
			}
		}
	})
}

// processor reports the processor's time of each round, which other work on the
// machine does not change as much as it changes the clock's.
func processor(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(time.Millisecond)/float64(b.N), "cpu-ms/op") }
}

// large is a file of n services that use what files commonly use.
func large(n int) string {
	var b strings.Builder
	b.WriteString("name: large\nx-common: &common\n  restart: unless-stopped\n  logging: {driver: json-file, options: {max-size: 10m}}\nservices:\n")
	for i := range n {
		fmt.Fprintf(&b, `  service-%d:
    <<: *common
    image: registry.example.com/team/service-%d:${TAG:-latest}
    command: ["serve", "--port", "8080", "--name", "service-%d"]
    environment:
      DATABASE_URL: postgres://app:${DB_PASSWORD:-secret}@service-0:5432/app
      QUEUE_URL: redis://service-1:6379/0
      LOG_LEVEL: ${LOG_LEVEL:-info}
      WORKERS: 4
    env_file: app.env
    ports: ["127.0.0.1:%d:8080"]
    volumes:
      - data-%d:/var/lib/service
      - ./site:/srv/site:ro
    networks:
      front: {aliases: [alias-%d]}
      back:
    labels:
      com.example.index: "%d"
      com.example.team: team
    healthcheck: {test: [CMD, curl, -f, "http://localhost:8080/health"], interval: 10s, timeout: 2s, retries: 5}
    deploy: {resources: {limits: {cpus: "0.5", memory: 256M}}}
`, i, i, i, 20000+i, i, i, i)
		if i > 1 {
			b.WriteString("    depends_on:\n      service-0: {condition: service_healthy}\n      service-1: {condition: service_started}\n")
		}
	}
	b.WriteString("networks: {front: {}, back: {internal: true}}\nvolumes:\n")
	for i := range n {
		fmt.Fprintf(&b, "  data-%d: {}\n", i)
	}
	return b.String()
}
