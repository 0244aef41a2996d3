//go:build tools

// Package consul builds Consul for the tests: `go build github.com/hashicorp/consul` in this
// folder. The import keeps the requirement, and go.sum pins everything it is made of.
package consul

import _ "github.com/hashicorp/consul"
