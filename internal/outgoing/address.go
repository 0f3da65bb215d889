package outgoing

import "net/netip"

// The networks that are not the public internet: IANA's special-purpose
// registries (RFC 6890 and its updates), and one public address behind which
// Azure keeps its metadata.
var notPublic4 = prefixes(
	"0.0.0.0/8",        // this network
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT; Alibaba's metadata
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure's metadata
	"169.254.0.0/16",   // link-local; most clouds' metadata
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; Oracle's metadata
	"192.0.2.0/24",     // documentation
	"192.31.196.0/24",  // AS112
	"192.52.193.0/24",  // AMT
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"192.175.48.0/24",  // AS112
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, broadcast
)

// Of IPv6 only 2000::/3 is given out for the public internet; that leaves out
// loopback, unique local (AWS's metadata), link-local, multicast, the
// IPv4-mapped form and NAT64 (64:ff9b::/96, 64:ff9b:1::/48). Within it:
var (
	global6    = netip.MustParsePrefix("2000::/3")
	notPublic6 = prefixes(
		"2001::/23",     // protocol assignments: Teredo carries IPv4 addresses
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4 carries IPv4 addresses
		"2620:4f:8000::/48",
		"3fff::/20", // documentation
	)
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Public reports whether addr is a unicast address of the public internet,
// written in its own form. An IPv4 address inside an IPv6 one never is: the two
// forms would be two answers about one host.
func Public(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	blocked := notPublic6
	if addr.Is4() {
		blocked = notPublic4
	} else if !global6.Contains(addr) {
		return false
	}
	for _, p := range blocked {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// never reports whether an address is refused even to the operator's client,
// unless its network is listed.
func never(addr netip.Addr) bool {
	return !addr.IsValid() || addr.Is4In6() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() ||
		addr == azureMetadata || addr == awsMetadata6
}

var (
	azureMetadata = netip.MustParseAddr("168.63.129.16")
	awsMetadata6  = netip.MustParseAddr("fd00:ec2::254")
)
