//go:build tools

// Package consul pins the Consul of the tests, with everything that it is made of. In this folder
// `go build github.com/hashicorp/consul` makes the program; the import keeps the requirement.
package consul

import _ "github.com/hashicorp/consul"
