package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync/atomic"

	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
)

// readPool reads a PEM file of certificate authorities.
func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the CA file cannot be read: "+path, err)
	}
	return parsePool(b, path)
}

// parsePool reads PEM certificates; where names their source in the error.
func parsePool(b []byte, where string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fault.New(fault.Invalid, "the CA file holds no PEM certificate: "+where)
	}
	return pool, nil
}

func readPair(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the certificate and key cannot be used: "+cert+", "+key, err)
	}
	return &pair, nil
}

// certificates are the listeners' own; they change at reload.
type certificates struct {
	forGateway, forAPI atomic.Pointer[tls.Certificate]
}

// load reads both pairs before it takes either.
func (c *certificates) load(cfg *config.Config) error {
	gw, err := readPair(cfg.TLS.Gateway.Cert, cfg.TLS.Gateway.Key)
	if err != nil {
		return err
	}
	api, err := readPair(cfg.TLS.API.Cert, cfg.TLS.API.Key)
	if err != nil {
		return err
	}
	c.forGateway.Store(gw)
	c.forAPI.Store(api)
	return nil
}

func (c *certificates) gateway(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.forGateway.Load(), nil
}

func (c *certificates) api(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.forAPI.Load(), nil
}
