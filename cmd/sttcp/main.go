// Command sttcp is the ST-TCP gateway.
package main

func main() {}
