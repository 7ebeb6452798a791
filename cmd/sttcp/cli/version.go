package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker in a release:
// -ldflags "-X sttcp/cmd/sttcp/cli.version=v1.2.3".
var version string

// Version is the version of this program: the linker's, else what the Go
// toolchain noted from the repository, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return fromBuild(info)
}

// fromBuild makes a version from the commit, which is what a checkout without
// tags is known by.
func fromBuild(info *debug.BuildInfo) string {
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	v := "devel"
	if rev := set["vcs.revision"]; rev != "" {
		v += "-" + rev[:min(12, len(rev))]
	}
	if set["vcs.modified"] == "true" {
		v += "+changes"
	}
	return v
}

func versionLine() string {
	return fmt.Sprintf("sttcp %s %s %s/%s", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.out, versionLine())
			return err
		},
	}
}
