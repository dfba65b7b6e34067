/* DPDK's inline functions behind real symbols: half a cycle to a cycle a call, and nothing of DPDK's
 * headers has to be understood by anything but a C compiler. */
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_version.h>

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, frames, n);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, frames, n);
}

/* As rte_pktmbuf_pool_create_by_ops, but packed if asked for: one mbuf behind the other across pages, which without huge
 * pages (and so without DMA) is right, takes less memory, and is what net_af_xdp believes a pool to be. */
struct rte_mempool *shim_mbuf_pool(const char *name, uint32_t n, uint32_t cache, uint16_t data_room, int node,
				   const char *ops, int packed)
{
	struct rte_pktmbuf_pool_private priv = { .mbuf_data_room_size = data_room };
	struct rte_mempool *pool;
	int ret;

	pool = rte_mempool_create_empty(name, n, sizeof(struct rte_mbuf) + data_room, cache, sizeof(priv), node,
					packed ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0);
	if (pool == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(pool, ops, NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(pool, &priv);
		ret = rte_mempool_populate_default(pool);
	}
	if (ret < 0) {
		rte_mempool_free(pool);
		rte_errno = -ret;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void shim_mbuf_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

/* Room for `len` more bytes in a frame of one segment; NULL when it has none. */
char *shim_mbuf_append(struct rte_mbuf *last, uint16_t len)
{
	return rte_pktmbuf_append(last, len);
}

int shim_mbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail)
{
	return rte_pktmbuf_chain(head, tail);
}

/* Marks the frame for the port's transmit side: put the TCP or UDP checksum in. */
void shim_mbuf_ask_checksum(struct rte_mbuf *m, uint8_t l2_len, uint16_t l3_len, int ipv6, int udp)
{
	m->ol_flags |= ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
	m->ol_flags |= udp ? RTE_MBUF_F_TX_UDP_CKSUM : RTE_MBUF_F_TX_TCP_CKSUM;
	m->l2_len = l2_len;
	m->l3_len = l3_len;
}

uint16_t shim_mbuf_data_room(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

uint64_t shim_rdtsc(void)
{
	return rte_rdtsc();
}

/* rte_errno is a variable of each thread behind a macro. */
int shim_errno(void)
{
	return rte_errno;
}

const char *shim_version(void)
{
	return rte_version();
}

/* Whether somebody has set an interface of this network namespace promiscuous, as `ip link` shows it: 1, 0, or -1
 * when it cannot be asked. Captures, which the kernel counts apart, are not seen here. */
int shim_promiscuous(const char *interface)
{
	struct ifreq asked = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int done;

	if (fd < 0)
		return -1;
	strncpy(asked.ifr_name, interface, IFNAMSIZ - 1);
	done = ioctl(fd, SIOCGIFFLAGS, &asked);
	close(fd);
	return done < 0 ? -1 : (asked.ifr_flags & IFF_PROMISC) != 0;
}
