package configs

import (
	"net/netip"
	"os"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The compose file and its gateway's configuration belong together: every
// server, and the virtual IP, is in the network where the gateway is.
func TestDockerCompose(t *testing.T) {
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Networks map[string]struct {
				Address string `yaml:"ipv4_address"`
			}
			Build struct{ Dockerfile string }
		}
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load("docker/gateway.yaml", Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("../" + compose.Services["gateway"].Build.Dockerfile); err != nil {
		t.Error(err)
	}
	for _, srv := range cfg.VirtualIPs[0].Services[0].Servers {
		if got := compose.Services[srv.Name].Networks["lan"].Address; got != srv.Address.String() {
			t.Errorf("server %s is %s for the gateway and %q in the compose file", srv.Name, srv.Address, got)
		}
	}
	if a := cfg.VirtualIPs[0].Addresses[0].Prefix; !a.Contains(netip.MustParseAddr(compose.Services["gateway"].Networks["lan"].Address)) {
		t.Errorf("the gateway is not in %s", a)
	}
}
