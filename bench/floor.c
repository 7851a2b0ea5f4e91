/* floor NODES PODS [PREFIX] [--keep]: the least a program can spend on a lab's namespaces.
 *
 * Per node a namespace with a bridge and its address; per pod a named namespace, a veth pair whose
 * far end is born inside it, the near end a hairpin port of the bridge, lo up, an address, a default
 * route. Raw netlink, every message that can wait for others sent with them, one thread. Prints
 * seconds and microseconds per pod, then removes everything (not with --keep).
 *
 * Each end of a veth asks for one queue: otherwise the kernel makes one per CPU, takes all but one
 * out of use again (veth_init_queues()) and waits for every CPU twice over.
 *
 * It writes no settings but one, as netlab does: IPv6 off, which saves more than it costs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GROUP = 0x6e6c, FAR_GROUP = GROUP + 1, PROTOCOL = 110, MTU = 1450, CHUNK = 32 << 10 };
#ifndef IFA_PROTO
#define IFA_PROTO 11
#endif

static char buffer[CHUNK + 4096];
static size_t used;
static unsigned sequence;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int netlink(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		die("socket");
	return fd;
}

static struct nlmsghdr *begin(int type, int flags, const void *body, size_t size)
{
	struct nlmsghdr *m = (void *)(buffer + used);
	*m = (struct nlmsghdr){ NLMSG_LENGTH(size), type, flags | NLM_F_REQUEST, ++sequence, 0 };
	memcpy(NLMSG_DATA(m), body, size);
	m->nlmsg_len = NLMSG_ALIGN(m->nlmsg_len);
	return m;
}

static struct rtattr *put(struct nlmsghdr *m, int type, const void *value, size_t size)
{
	struct rtattr *a = (void *)((char *)m + m->nlmsg_len);
	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(a), value, size);
	m->nlmsg_len += RTA_ALIGN(a->rta_len);
	return a;
}

static void put32(struct nlmsghdr *m, int type, unsigned value)
{
	put(m, type, &value, 4);
}

static void puts_(struct nlmsghdr *m, int type, const char *value)
{
	put(m, type, value, strlen(value) + 1);
}

static void close_nest(struct nlmsghdr *m, struct rtattr *a)
{
	a->rta_len = (char *)m + m->nlmsg_len - (char *)a;
}

/* Send what is in the buffer; only the last message is acknowledged, errors come in any case. */
static void flush(int fd, struct nlmsghdr *last)
{
	static char reply[8192];
	last->nlmsg_flags |= NLM_F_ACK;
	if (send(fd, buffer, used, 0) < 0)
		die("send");
	for (;;) {
		ssize_t n = recv(fd, reply, sizeof reply, 0);
		struct nlmsghdr *m = (void *)reply;
		for (; NLMSG_OK(m, n); m = NLMSG_NEXT(m, n)) {
			struct nlmsgerr *e = NLMSG_DATA(m);
			if (m->nlmsg_type != NLMSG_ERROR)
				continue;
			if (e->error) {
				errno = -e->error;
				die("netlink");
			}
			used = 0;
			return;
		}
	}
}

static void end(struct nlmsghdr *m)
{
	used += NLMSG_ALIGN(m->nlmsg_len);
}

static struct nlmsghdr *up(int index)
{
	struct ifinfomsg i = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	struct nlmsghdr *m = begin(RTM_NEWLINK, 0, &i, sizeof i);
	end(m);
	return m;
}

static struct nlmsghdr *address(int index, unsigned ip, int length)
{
	struct ifaddrmsg a = { .ifa_family = AF_INET, .ifa_prefixlen = length, .ifa_index = index };
	struct nlmsghdr *m = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &a, sizeof a);
	unsigned char protocol = PROTOCOL;
	ip = htonl(ip);
	put(m, IFA_LOCAL, &ip, 4);
	put(m, IFA_ADDRESS, &ip, 4);
	put(m, IFA_PROTO, &protocol, 1);
	end(m);
	return m;
}

static struct nlmsghdr *default_route(int index, unsigned via)
{
	struct rtmsg r = { .rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN,
			   .rtm_protocol = PROTOCOL, .rtm_type = RTN_UNICAST };
	struct nlmsghdr *m = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &r, sizeof r);
	via = htonl(via);
	put32(m, RTA_OIF, index);
	put(m, RTA_GATEWAY, &via, 4);
	end(m);
	return m;
}

static void put_mac(struct nlmsghdr *m, int node, int pod, int side)
{
	unsigned char mac[6] = { 2, side, node >> 8, node, pod >> 8, pod };
	put(m, IFLA_ADDRESS, mac, 6);
}

static void bridge(int fd, int index, int node)
{
	struct ifinfomsg i = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	struct nlmsghdr *m = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
	puts_(m, IFLA_IFNAME, "docker0");
	put_mac(m, node, 0, 0);
	put32(m, IFLA_GROUP, GROUP);
	struct rtattr *info = put(m, IFLA_LINKINFO, NULL, 0);
	puts_(m, IFLA_INFO_KIND, "bridge");
	close_nest(m, info);
	end(m);
	struct ifinfomsg same = { .ifi_index = index };
	m = begin(RTM_NEWLINK, 0, &same, sizeof same);
	put32(m, IFLA_MTU, MTU);
	end(m);
	m = address(index, 10u << 24 | node << 16 | 1, 16);
	flush(fd, m);
}

static struct nlmsghdr *veth(int index, int master, int node, int pod, int pod_fd)
{
	struct ifinfomsg i = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	struct ifinfomsg far = { .ifi_index = 2 };
	char name[IFNAMSIZ];
	snprintf(name, sizeof name, "veth%d", pod);
	struct nlmsghdr *m = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
	puts_(m, IFLA_IFNAME, name);
	put_mac(m, node, pod, 1);
	put32(m, IFLA_MTU, MTU);
	put32(m, IFLA_GROUP, GROUP);
	put32(m, IFLA_MASTER, master);
	put32(m, IFLA_NUM_TX_QUEUES, 1);
	put32(m, IFLA_NUM_RX_QUEUES, 1);
	struct rtattr *info = put(m, IFLA_LINKINFO, NULL, 0);
	puts_(m, IFLA_INFO_KIND, "veth");
	struct rtattr *data = put(m, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *peer = put(m, VETH_INFO_PEER, &far, sizeof far);
	puts_(m, IFLA_IFNAME, "eth0");
	put_mac(m, node, pod, 2);
	put32(m, IFLA_MTU, MTU);
	put32(m, IFLA_GROUP, FAR_GROUP);
	put32(m, IFLA_NUM_TX_QUEUES, 1);
	put32(m, IFLA_NUM_RX_QUEUES, 1);
	put32(m, IFLA_NET_NS_FD, pod_fd);
	close_nest(m, peer);
	close_nest(m, data);
	close_nest(m, info);
	end(m);
	struct ifinfomsg port = { .ifi_family = AF_BRIDGE, .ifi_index = index };
	unsigned char on = 1;
	m = begin(RTM_SETLINK, 0, &port, sizeof port);
	info = put(m, IFLA_PROTINFO | NLA_F_NESTED, NULL, 0);
	put(m, IFLA_BRPORT_MODE, &on, 1);
	close_nest(m, info);
	end(m);
	return m;
}

/* Make a named namespace and stay inside; return a socket in it, and its descriptor in *ns. */
static int namespace(const char *name, int *ns)
{
	char path[512];
	snprintf(path, sizeof path, "/run/netns/%s", name);
	int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
	if (fd < 0)
		die(path);
	close(fd);
	if (unshare(CLONE_NEWNET) || mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL))
		die("namespace");
	fd = open("/proc/sys/net/ipv6/conf/all/disable_ipv6", O_WRONLY);
	if (fd >= 0) {
		if (write(fd, "1", 1) != 1)
			die("disable_ipv6");
		close(fd);
	}
	*ns = open(path, O_RDONLY | O_CLOEXEC);
	return netlink();
}

static void name_of(char *out, size_t size, const char *prefix, int node, int pod)
{
	if (pod)
		snprintf(out, size, "%s.n%d.default.p%d", prefix, node, pod);
	else
		snprintf(out, size, "%s.n%d", prefix, node);
}

static void make(const char *prefix, int nodes, int pods)
{
	char name[256];
	int *sockets = calloc(pods + 1, sizeof(int)), *spaces = calloc(pods + 1, sizeof(int));
	for (int node = 1; node <= nodes; node++) {
		struct nlmsghdr *m = NULL;
		for (int pod = 0; pod <= pods; pod++) {
			name_of(name, sizeof name, prefix, node, pod);
			sockets[pod] = namespace(name, &spaces[pod]);
		}
		m = up(1);
		flush(sockets[0], m);
		bridge(sockets[0], 2, node);
		for (int pod = 1; pod <= pods; pod++) {
			m = veth(pod + 2, 2, node, pod, spaces[pod]);
			if (used > CHUNK - 512 || pod == pods)
				flush(sockets[0], m);
		}
		for (int pod = 1; pod <= pods; pod++) {
			up(1);
			up(2);
			address(2, 10u << 24 | node << 16 | (pod + 1), 16);
			m = default_route(2, 10u << 24 | node << 16 | 1);
			flush(sockets[pod], m);
		}
		for (int pod = 0; pod <= pods; pod++) {
			close(sockets[pod]);
			close(spaces[pod]);
		}
	}
	free(sockets);
	free(spaces);
}

static void sweep(const char *prefix, int nodes, int pods)
{
	char name[256], path[512];
	for (int node = 1; node <= nodes; node++)
		for (int pod = 0; pod <= pods; pod++) {
			name_of(name, sizeof name, prefix, node, pod);
			snprintf(path, sizeof path, "/run/netns/%s", name);
			umount2(path, MNT_DETACH);
			unlink(path);
		}
}

int main(int argc, char **argv)
{
	int keep = argc > 1 && !strcmp(argv[argc - 1], "--keep");
	argc -= keep;
	if (argc < 3) {
		fprintf(stderr, "usage: floor NODES PODS [PREFIX] [--keep]\n");
		return 2;
	}
	int nodes = atoi(argv[1]), pods = atoi(argv[2]);
	const char *prefix = argc > 3 ? argv[3] : "floor";
	if (nodes < 1 || nodes > 250 || pods < 1 || pods > 1000) {
		fprintf(stderr, "floor: 1 to 250 nodes of 1 to 1000 pods\n");
		return 2;
	}
	mkdir("/run/netns", 0755);
	double start = now();
	make(prefix, nodes, pods);
	double seconds = now() - start;
	printf("%.4f s %.1f us/pod\n", seconds, seconds / nodes / pods * 1e6);
	if (!keep)
		sweep(prefix, nodes, pods);
	return 0;
}
