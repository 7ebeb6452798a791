package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sttcp/cmd/admin"
)

// page collects text and tables; the first error ends it.
type page struct {
	w   io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// table prints rows in columns, the first row is the heading.
func (p *page) table(rows [][]string) {
	if p.err != nil || len(rows) < 2 {
		return
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	p.err = t.Flush()
}

// printStatus is for people; scripts use --json, which is stable.
func printStatus(w io.Writer, st admin.Status) error {
	p := &page{w: w}
	p.printf("node %s (%s), %s, process %d since %s\n", st.Node, st.Role, st.Version, st.PID, moment(st.Started))
	p.printf("\n")
	p.table(vipRows(st.VirtualIPs))
	p.printf("\n")
	p.table(serviceRows(st.Services))
	p.printf("\n")
	p.table(serverRows(st.Servers))
	for i, note := range st.Notes {
		if i == 0 {
			p.printf("\n")
		}
		p.printf("note: %s\n", note)
	}
	return p.err
}

// printServers prints the same table as the status.
func printServers(w io.Writer, s admin.Servers) error {
	p := &page{w: w}
	p.table(serverRows(s.Servers))
	return p.err
}

// printConnections gives each leg a line, below its connection's.
func printConnections(w io.Writer, c admin.Connections) error {
	p := &page{w: w}
	rows := [][]string{{"SERVICE", "CLIENT", "ADDRESS", "IN", "OUT", "STATE", "SERVER", "LEG", "ACKED", "READ"}}
	for _, v := range c.Connections {
		row := []string{v.Service, v.Client, v.Address, fmt.Sprint(v.In), fmt.Sprint(v.Out), connState(v)}
		for _, l := range v.Legs {
			rows = append(rows, append(row, l.Server, legState(v, l), fmt.Sprint(l.Acked), fmt.Sprint(l.Read)))
			row = []string{"", "", "", "", "", ""}
		}
	}
	p.table(rows)
	if c.More > 0 {
		p.printf("and %d more\n", c.More)
	}
	return p.err
}

// connState says what is special about a connection, in one word each.
func connState(v admin.ConnStatus) string {
	return words("open", map[string]bool{
		"client-closed": v.ClientFIN, "servers-closed": v.ServerFIN, "client-slow": v.Blocked, "frozen": v.Frozen})
}

func legState(v admin.ConnStatus, l admin.LegStatus) string {
	role := ""
	if l.Server == v.Primary {
		role = "primary,"
	}
	return role + l.State + words("", map[string]bool{",slow": l.Blocked, ",closed": l.Closed, ",owes": l.Owes})
}

// words are those that apply, in alphabetical order, or else the usual.
func words(usual string, which map[string]bool) string {
	var out []string
	for _, w := range slices.Sorted(maps.Keys(which)) {
		if which[w] {
			out = append(out, w)
		}
	}
	if out == nil {
		return usual
	}
	if usual == "" {
		return strings.Join(out, "")
	}
	return strings.Join(out, ",")
}

// vipRows are the virtual IPs. A lease of 0 is that of a node alone.
func vipRows(vips []admin.VirtualIP) [][]string {
	rows := [][]string{{"VIRTUAL IP", "HOLDER", "EPOCH", "LEASE", "IN SYNC"}}
	for _, v := range vips {
		lease := "no end"
		if v.LeaseMS > 0 {
			lease = (time.Duration(v.LeaseMS) * time.Millisecond).String()
		}
		rows = append(rows, []string{v.Name, dash(v.Holder), fmt.Sprint(v.Epoch), lease, dash(strings.Join(v.InSync, ","))})
	}
	return rows
}

// serviceRows are the services. The three columns after the name belong
// together: of so many connections so many survive a server, so many a gateway.
func serviceRows(services []admin.ServiceStatus) [][]string {
	rows := [][]string{{"SERVICE", "CONNECTIONS", "TWO LEGS", "GATEWAY PROTECTED", "ACCEPTED", "REFUSED", "IN", "OUT", "PROMOTED", "DIVERGED", "MUTED"}}
	for _, s := range services {
		rows = append(rows, []string{s.Name,
			fmt.Sprint(s.Connections), fmt.Sprint(s.TwoLegs), fmt.Sprint(s.GatewayProtected),
			fmt.Sprint(s.Accepted), fmt.Sprint(s.Refused), size(s.BytesIn), size(s.BytesOut),
			fmt.Sprint(s.Promoted), fmt.Sprint(s.Diverged), fmt.Sprint(s.Muted)})
	}
	return rows
}

// serverRows are the servers. What the checks say is beside the state, because
// a stale server may be healthy, and a drained one dead.
func serverRows(servers []admin.ServerStatus) [][]string {
	rows := [][]string{{"SERVICE", "SERVER", "ADDRESS", "STATE", "SINCE", "CHECKS", "LEGS", "PRIMARY FOR"}}
	for _, s := range servers {
		checks := "fail"
		if s.Healthy {
			checks = "pass"
		}
		rows = append(rows, []string{s.Service, s.Name, s.Address, s.State, moment(s.Since), checks,
			fmt.Sprint(s.Legs), fmt.Sprint(s.Primaries)})
	}
	return rows
}

// dash stands for nothing, so that columns can be counted.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// moment is a point in time in the operator's time zone.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// size is a number of bytes with at most four digits and a binary unit.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1023.95 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f%ciB", v, units[u])
}
