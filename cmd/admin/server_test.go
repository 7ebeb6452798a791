package admin

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/status.json anew; only keys may be added to it")

// get asks for path as any HTTP client would, and gives the answer's text.
func get(t *testing.T, sock, method, path, body string) (code int, answer string) {
	t.Helper()
	c := dial(t, sock, "")
	req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s %s: content type %q", method, path, ct)
	}
	var raw json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&raw); err != nil {
		t.Fatalf("%s %s: not JSON: %v", method, path, err)
	}
	return resp.StatusCode, string(raw)
}

func TestEndpoints(t *testing.T) {
	sock := serveUnix(t, newFake())
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string // part of the answer
	}{
		{"GET", "/v1/status", "", 200, `"node":"g1"`},
		{"GET", "/v1/servers", "", 200, `{"servers":[{"service":"web","name":"s1",`},
		{"GET", "/v1/connections", "", 200, `{"connections":[{"service":"web","id":7,`},
		{"POST", "/v1/connections", "", 405, `/v1/connections needs GET`},
		{"POST", "/v1/server", `{"name":"s2","op":"drain"}`, 200, `{"servers":[{"service":"web","name":"s2","address":"10.9.0.12","state":"drain"`},
		{"POST", "/v1/server", `{"name":"s2","op":"maint"}`, 200, `"state":"maint"`},
		{"POST", "/v1/server", `{"name":"s1","op":"ready"}`, 409, `{"error":"make server s1 of service web ready: the service is not frozen"}`},
		{"POST", "/v1/server", `{"name":"s1","op":"ready","reset_connections":true}`, 200, `"state":"up"`},
		{"POST", "/v1/server", `{"name":"s9","op":"drain"}`, 404, `{"error":"server \"s9\": not configured"}`},
		{"POST", "/v1/server", `{"op":"drain"}`, 400, `{"error":"name is missing"}`},
		{"POST", "/v1/server", `{"name":"s1","op":"kill"}`, 400, `op \"kill\" is none of drain, maint, ready`},
		{"POST", "/v1/server", `{"name":"s1","op":"maint","reset_connections":true}`, 400, `goes with op ready only`},
		{"POST", "/v1/server", `{"name":"s1","op":"maint","force":true}`, 400, `unknown field \"force\"`},
		{"POST", "/v1/server", `{"name":"s1","op":"maint"} {}`, 400, `something follows the object`},
		{"POST", "/v1/server", ``, 400, `not the JSON that is expected`},
		{"POST", "/v1/server", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, 413, `longer than 4096 bytes`},
		{"POST", "/v1/service", `{"name":"web","op":"freeze"}`, 200, `{}`},
		{"POST", "/v1/service", `{"name":"web","op":"thaw"}`, 200, `{}`},
		{"POST", "/v1/service", `{"name":"db","op":"thaw"}`, 404, `{"error":"service \"db\": not configured"}`},
		{"POST", "/v1/service", `{"name":"web","op":"melt"}`, 400, `op \"melt\" is none of freeze, thaw`},
		{"POST", "/v1/service", `{"op":"thaw"}`, 400, `name is missing`},
		{"POST", "/v1/service", `[]`, 400, `not the JSON that is expected`},
		{"POST", "/v1/status", "", 405, `/v1/status needs GET`},
		{"GET", "/v1/server", "", 405, `/v1/server needs POST`},
		{"GET", "/v2/status", "", 404, `no /v2/status here`},
	} {
		code, answer := get(t, sock, tc.method, tc.path, tc.body)
		if code != tc.code || !strings.Contains(answer, tc.want) {
			t.Errorf("%s %s %.60s:\ngot  %d %s\nwant %d ...%s", tc.method, tc.path, tc.body, code, answer, tc.code, tc.want)
		}
	}
}

// The whole of `sttcp status --json`; whoever changes what is in the file
// breaks the scripts of operators.
func TestStatusGolden(t *testing.T) {
	st := newFake().Status()
	st.complete()
	got, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/status.json"
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The keys of section 8 of the architecture, whatever -update did.
func TestStatusKeys(t *testing.T) {
	_, answer := get(t, serveUnix(t, newFake()), "GET", "/v1/status", "")
	var st struct {
		Node, Role *string
		VIPs       []map[string]any `json:"virtual_ips"`
		Services   []map[string]any
		Servers    []map[string]any
	}
	if err := json.Unmarshal([]byte(answer), &st); err != nil {
		t.Fatal(err)
	}
	if st.Node == nil || st.Role == nil {
		t.Errorf("node or role is missing in %s", answer)
	}
	number, text := reflect.TypeFor[float64](), reflect.TypeFor[string]()
	expect := func(list []map[string]any, keys map[string]reflect.Type) {
		if len(list) == 0 {
			t.Fatalf("no list with %v in %s", keys, answer)
		}
		for key, typ := range keys {
			if got := reflect.TypeOf(list[0][key]); got != typ {
				t.Errorf("%s is a %v, want %v", key, got, typ)
			}
		}
	}
	expect(st.VIPs, map[string]reflect.Type{
		"name": text, "holder": text, "epoch": number, "lease_ms": number, "in_sync": reflect.TypeFor[[]any]()})
	expect(st.Services, map[string]reflect.Type{
		"name": text, "connections": number, "two_legs": number, "gateway_protected": number})
	expect(st.Servers, map[string]reflect.Type{
		"service": text, "name": text, "address": text, "state": text, "since": text})
}

// empty is a node that has nothing yet.
type empty struct{ Backend }

func (empty) Status() Status {
	return Status{VirtualIPs: make([]VirtualIP, 1), Services: make([]ServiceStatus, 1)}
}
func (empty) Servers() []ServerStatus { return nil }
func (empty) Connections(int) Connections {
	return Connections{Connections: make([]ConnStatus, 1)}
}

func TestListsAreNeverNull(t *testing.T) {
	sock := serveUnix(t, empty{})
	for _, path := range []string{"/v1/status", "/v1/servers", "/v1/connections"} {
		if _, answer := get(t, sock, "GET", path, ""); strings.Contains(answer, "null") {
			t.Errorf("%s: null in %s", path, answer)
		}
	}
}

func TestConcurrentClients(t *testing.T) {
	f := newFake()
	sock := serveUnix(t, f)
	const clients, orders = 8, 20
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c := dial(t, sock, "")
			for k := range orders {
				if err := oneRound(c, fmt.Sprintf("s%d", 1+(i+k)%2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(f.calls) != clients*orders {
		t.Errorf("%d orders arrived, want %d", len(f.calls), clients*orders)
	}
}

func oneRound(c *Client, server string) error {
	ctx := context.Background()
	_, err1 := c.Server(ctx, ServerOrder{Name: server, Op: OpMaint})
	_, err2 := c.Status(ctx)
	return errors.Join(err1, err2, c.Service(ctx, ServiceOrder{Name: "web", Op: OpFreeze}))
}

// slow is a node whose status waits.
type slow struct {
	Backend
	asked, answer chan struct{}
}

func (s slow) Status() Status {
	close(s.asked)
	<-s.answer
	return Status{Node: "slow"}
}

func TestCloseWaitsForRequests(t *testing.T) {
	b := slow{asked: make(chan struct{}), answer: make(chan struct{})}
	path := t.TempDir() + "/a.sock"
	s, err := Serve(b, Options{Network: "unix", Address: path, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		st, err := dial(t, path, "").Status(context.Background())
		if err == nil && st.Node != "slow" {
			err = fmt.Errorf("node is %q", st.Node)
		}
		got <- err
	}()
	<-b.asked
	over, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan error, 1)
	go func() { done <- s.Close(context.Background()) }()
	<-s.done // nobody is accepted any more
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket file is still there: %v", err)
	}
	close(b.answer)
	if err := errors.Join(<-got, <-done); err != nil {
		t.Error(err)
	}
	if err := s.Close(over); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestCloseCutsWhenTimeIsOver(t *testing.T) {
	b := slow{asked: make(chan struct{}), answer: make(chan struct{})}
	path := t.TempDir() + "/a.sock"
	s, err := Serve(b, Options{Network: "unix", Address: path, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { _, err := dial(t, path, "").Status(context.Background()); got <- err }()
	<-b.asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	if err := <-got; err == nil {
		t.Error("the request that was cut gave no error")
	}
	close(b.answer)
}
