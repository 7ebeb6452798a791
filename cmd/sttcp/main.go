// Command sttcp is the ST-TCP gateway and the operator's way to speak to it.
package main

import (
	"context"
	"os"

	"sttcp/cmd/sttcp/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
