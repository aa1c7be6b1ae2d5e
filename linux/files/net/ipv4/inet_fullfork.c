// SPDX-License-Identifier: GPL-2.0
/*
 * Full fork: connections of members with each other, of TCP and UDP.
 *
 * Copyright (c) 2026 The full fork developers
 *
 * A connection that only those who are copied have both ends of cannot be copied: there
 * would be two with the same addresses in one network namespace.  If it were shared,
 * original and replica would take bytes from each other.
 */

#include <linux/fullfork_isolate.h>
#include <linux/udp.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/tcp.h>
#include <net/udp.h>

/* Whoever is in one of these states has no other end. */
#define TCPF_ALONE	(TCPF_CLOSE | TCPF_LISTEN | TCPF_SYN_SENT | TCPF_BOUND_INACTIVE)

static bool has_ipv6(const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	return sk->sk_family == AF_INET6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr);
#else
	return false;
#endif
}

/* Is it in @net, with the addresses of @sk the other way round? */
static bool is_mirror(const struct net *net, const struct sock *sk, const struct sock *other)
{
	if (!net_eq(net, sock_net(other)) || has_ipv6(sk) != has_ipv6(other) ||
	    other->sk_num != ntohs(sk->sk_dport) || other->sk_dport != htons(sk->sk_num))
		return false;
#if IS_ENABLED(CONFIG_IPV6)
	if (has_ipv6(sk))
		return ipv6_addr_equal(&other->sk_v6_rcv_saddr, &sk->sk_v6_daddr) &&
		       ipv6_addr_equal(&other->sk_v6_daddr, &sk->sk_v6_rcv_saddr);
#endif
	return other->sk_rcv_saddr == sk->sk_daddr && other->sk_daddr == sk->sk_rcv_saddr;
}

/*
 * Both ends are one object.  One that has no file, as it is closed or not accepted yet,
 * is not found, so that the connection is shared.
 */
static const void *both_ends(const struct file *file, const struct sock *sk,
			     const struct sock *other, unsigned int *nr_files)
{
	if (!other)
		return NULL;
	/* A socket may be connected with itself. */
	*nr_files = d_count(file->f_path.dentry) + (other != sk);
	return min(sk, other);
}

/* The hash of a socket whose addresses are those of @sk the other way round. */
static u32 tcp_mirror_hash(const struct net *net, const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (has_ipv6(sk))
		return inet6_ehashfn(net, &sk->sk_v6_daddr, ntohs(sk->sk_dport),
				     &sk->sk_v6_rcv_saddr, htons(sk->sk_num));
#endif
	return inet_ehashfn(net, sk->sk_daddr, ntohs(sk->sk_dport),
			    sk->sk_rcv_saddr, htons(sk->sk_num));
}

/* Is what @to expects next on its way from @from, or yet to be sent? */
static bool tcp_expects_from(const struct sock *to, const struct sock *from)
{
	/* Each only grows, and none overtakes the one that is read after it: */
	u32 oldest = smp_load_acquire(&tcp_sk(from)->snd_una);
	u32 expected = smp_load_acquire(&tcp_sk(to)->rcv_nxt); /* before snd_nxt */

	return between(expected, oldest, READ_ONCE(tcp_sk(from)->snd_nxt));
}

static bool tcp_expect_each_other(const struct sock *sk, const struct sock *other)
{
	return tcp_expects_from(sk, other) && tcp_expects_from(other, sk);
}

/*
 * The other end of the connection, not held; NULL if it is not in this network
 * namespace, or is no whole socket yet or any more.  The addresses may be those of
 * several, bound to different devices, or of none that it is connected with, if they
 * were translated: the sequence numbers tell, of a socket that has some.  @sk may be
 * one that is about to be another, but for RCU: of that nothing is right but @net.
 */
static const struct sock *tcp_other_end(const struct net *net, const struct sock *sk)
{
	struct inet_hashinfo *hashinfo = net->ipv4.tcp_death_row.hashinfo;
	u32 hash = tcp_mirror_hash(net, sk);
	const struct hlist_nulls_node *node;
	const struct sock *other;

	guard(spinlock_bh)(inet_ehash_lockp(hashinfo, hash));
	sk_nulls_for_each(other, node, &inet_ehash_bucket(hashinfo, hash)->chain)
		if (other->sk_hash == hash && sk_fullsock(other) && is_mirror(net, sk, other) &&
		    (!sk_is_tcp(sk) || tcp_expect_each_other(sk, other)))
			return other;
	return NULL;
}

static const void *tcp_fullfork_object(struct file *file, unsigned int *nr_files)
{
	const struct sock *sk = ((struct socket *)file->private_data)->sk, *other;

	if (!sk || (1 << inet_sk_state_load(sk)) & TCPF_ALONE)
		return NULL;
	if (!sk_is_tcp(sk) && sk->sk_protocol != IPPROTO_MPTCP)
		return NULL;
	guard(rcu)();
	other = tcp_other_end(sock_net(sk), sk);
	/* A socket of MPTCP has the addresses of its first subflow, which stands for it. */
	if (other && !sk_is_tcp(sk))
		sk = tcp_other_end(sock_net(sk), other);
	return sk ? both_ends(file, sk, other, nr_files) : NULL;
}

static u32 udp_mirror_hash(const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (has_ipv6(sk))
		return ipv6_portaddr_hash(sock_net(sk), &sk->sk_v6_daddr, ntohs(sk->sk_dport));
#endif
	return ipv4_portaddr_hash(sock_net(sk), sk->sk_daddr, ntohs(sk->sk_dport));
}

static const struct sock *udp_mirror(const struct sock *sk)
{
	struct udp_table *table = sock_net(sk)->ipv4.udp_table;
	const struct sock *other;

	udp_portaddr_for_each_entry_rcu(other,
					&udp_hashslot2(table, udp_mirror_hash(sk))->head)
		if (READ_ONCE(other->sk_state) == TCP_ESTABLISHED &&
		    is_mirror(sock_net(sk), sk, other))
			return other;
	return NULL;
}

/* Addresses may be those of several: it is of no use to look at one that is another's. */
static const void *udp_fullfork_object(struct file *file, unsigned int *nr_files)
{
	const struct sock *sk = ((struct socket *)file->private_data)->sk, *other;

	if (!sk || READ_ONCE(sk->sk_state) != TCP_ESTABLISHED)
		return NULL;
	guard(rcu)();
	other = udp_mirror(sk);
	return both_ends(file, sk, other && udp_mirror(other) == sk ? other : NULL, nr_files);
}

static const struct fullfork_file_ops tcp_fullfork_ops = {
	.name	= "inet",
	.object	= tcp_fullfork_object,
	.refused = FULLFORK_LOOPBACK_TCP,
};

static const struct fullfork_file_ops udp_fullfork_ops = {
	.name	= "udp",
	.object	= udp_fullfork_object,
	.refused = FULLFORK_LOOPBACK_UDP,
};

static const struct fullfork_file_ops *inet_fullfork_of(const struct file *file)
{
	const struct sock *sk = ((struct socket *)file->private_data)->sk;

	return sk && sk_is_udp(sk) ? &udp_fullfork_ops : &tcp_fullfork_ops;
}

static const struct fullfork_file_ops inet_fullfork_kinds = {
	.of	= inet_fullfork_of,
};

static int __init inet_fullfork_init(void)
{
	fullfork_register_sockets(PF_INET, &inet_fullfork_kinds);
	fullfork_register_sockets(PF_INET6, &inet_fullfork_kinds);
	return 0;
}
late_initcall(inet_fullfork_init);
