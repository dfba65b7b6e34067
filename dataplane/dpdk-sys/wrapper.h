/* What bindgen reads. Only functions named in build.rs are bound; types come along as they need them.
 *
 * No header of a protocol (rte_ether.h, rte_ip.h ...) is bound: tidegate has its own views, and those
 * packed structs do not compile in Rust.
 */
#define _GNU_SOURCE
#include <net/if.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_vhost.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_vhost.h>

/* Macros with RTE_BIT64 in them vanish in bindgen without a word; a typed constant does not. */
static const uint64_t TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t TX_CHECKSUMS = RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t RX_CHECKSUMS = RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t RSS_IP_L4 = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint32_t SPEED_UNKNOWN = RTE_ETH_SPEED_NUM_UNKNOWN;
static const uint32_t MAX_LCORE = RTE_MAX_LCORE;
static const uint32_t MAX_PORTS = RTE_MAX_ETHPORTS;
static const uint32_t ANY_SOCKET = (uint32_t)SOCKET_ID_ANY;
static const uint16_t HEADROOM = RTE_PKTMBUF_HEADROOM;

/* Where the mbuf's fields are: read in Rust, so that no call stands between the lane and a length.
 * Offsets and not field paths, because the paths change between DPDK releases. */
static const size_t MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t MBUF_NEXT = offsetof(struct rte_mbuf, next);

/* Flags that say: the driver left work to us. */
static const uint64_t MBUF_SEGMENT_ME = RTE_MBUF_F_RX_LRO | RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_UDP_SEG;
static const uint64_t MBUF_TX_L4_MASK = RTE_MBUF_F_TX_L4_MASK;
static const uint64_t MBUF_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t MBUF_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t MBUF_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;

/* src/shim.c: the inline functions of DPDK, as functions that can be linked. */
uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t n);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t n);
struct rte_mempool *shim_mbuf_pool(const char *name, uint32_t n, uint32_t cache, uint16_t data_room, int node,
				   const char *ops, int packed);
struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool);
void shim_mbuf_free(struct rte_mbuf *m);
char *shim_mbuf_append(struct rte_mbuf *last, uint16_t len);
int shim_mbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail);
void shim_mbuf_ask_checksum(struct rte_mbuf *m, uint8_t l2_len, uint16_t l3_len, int ipv6, int udp);
uint16_t shim_mbuf_data_room(struct rte_mempool *pool);
uint64_t shim_rdtsc(void);
int shim_errno(void);
const char *shim_version(void);
int shim_promiscuous(const char *interface);
