package node

import (
	"encoding/json"
	"testing"
)

// TestConnectionsKeepEveryField wants the interface to say of a connection
// what the proxy says, under the same keys.
func TestConnectionsKeepEveryField(t *testing.T) {
	p := &fakeProxy{}
	b := &backend{proxy: p}
	got := b.Connections(5)
	want, _ := p.Connections(5)
	if got.More != 5 {
		t.Errorf("%d more, want 5", got.More)
	}
	as := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if as(got.Connections) != as(want) {
		t.Errorf("connections %s, want %s", as(got.Connections), as(want))
	}
}
