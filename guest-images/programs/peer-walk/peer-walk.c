/*
 * Walks a ring of nodes in registered memory while the remote peer (rdma-peer.h) changes it by one-sided requests, and
 * checks that each change arrives, whole and in order. No CPU of the guest takes part in the changes: what is missing or
 * old here is what an application of one-sided RDMA would miss.
 *
 * Prints what it has seen and exits 0 if all of it arrived, 1 if not or if an operation failed, 2 if called wrongly.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "peer-walk.h"

#define PAUSE_NS 5000

struct options option = {
	.ops = ALL, .nodes = 4, .size = 256, .count = 50, .delay = 100000, .timeout = 10, .qpn = PEER_FIRST_QPN,
};

static void usage(FILE *to)
{
	fprintf(to,
		"usage: peer-walk [OPTION]…\n"
		"Walks memory that the remote peer of `staleline run --device mlx5` changes, and checks each change.\n"
		"  --op LIST       what the peer does: write, add, swap, read, separated by commas (default: all)\n"
		"  --nodes N       nodes of the ring, 1 to %d (default 4)\n"
		"  --size BYTES    data of a node, 8 to %d, a multiple of 8 (default 256)\n"
		"  --count N       how many times, 1 to %u (default 50)\n"
		"  --delay NS      from one time to the next (default 100000)\n"
		"  --timeout SEC   how long to wait for all of it (default 10)\n"
		"  --qpn N         the peer's queue pair, %#x to %#x (default %#x)\n"
		"  --device NAME   RDMA device (default: the first)\n"
		"  --watch         give no orders: wait for what --device mlx5,peer=write@…*N writes, N being --count\n"
		"  --fill          give no orders: hold the pattern that --device mlx5,peer=check@… expects, until --timeout\n"
		"  --counter       give no orders: wait for --device mlx5,peer=fetch-add@…*N to add N times, N being --count\n"
		"  --dereg         deregister the memory at the end and look at it once more\n",
		MAX_NODES, MAX_SIZE, PEER_MAX_REPEAT, PEER_FIRST_QPN, PEER_FIRST_QPN + PEER_QPN_COUNT - 1,
		PEER_FIRST_QPN);
}

double seconds(void)
{
	static struct timespec first;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (first.tv_sec == 0 && first.tv_nsec == 0)
		first = now;
	return (double)(now.tv_sec - first.tv_sec) + (double)(now.tv_nsec - first.tv_nsec) / 1e9;
}

void rest(void)
{
	struct timespec time = { 0, PAUSE_NS };

	nanosleep(&time, NULL);
}

int failed(const char *format, ...)
{
	va_list list;

	printf("peer-walk: ");
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	printf("\n");
	return 1;
}

int failed_call(const char *what)
{
	return failed("%s: errno %d (%s)", what, errno, strerror(errno));
}

void print_bytes(const uint8_t *found, uint64_t length, uint64_t offset, uint64_t seed, uint32_t repetition)
{
	uint64_t end = offset + 8 < length ? offset + 8 : length;

	printf("  at byte %llu: expected", (unsigned long long)offset);
	for (uint64_t i = offset; i < end; i++)
		printf(" %02x", peer_pattern_byte(seed, repetition, i));
	printf(", found");
	for (uint64_t i = offset; i < end; i++)
		printf(" %02x", found[i]);
	printf(" (repetition %u)\n", repetition);
}

uint64_t difference(const volatile uint8_t *bytes, uint64_t length, uint64_t seed, uint32_t repetition)
{
	for (uint64_t i = 0; i < length; i++)
		if (bytes[i] != peer_pattern_byte(seed, repetition, i))
			return i;
	return length;
}

void fill(uint8_t *bytes, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = peer_pattern_byte(seed, 0, i);
}

const char *op_name(unsigned op)
{
	return op == WRITE ? "write" : op == ADD ? "add" : op == SWAP ? "swap" : "read";
}

static int walk_ring(void)
{
	if (give_orders())
		return 1;
	while (outstanding || !ring_complete(0)) {
		int new = walk(), answered = poll_connection(take_answer);

		if (new < 0 || answered < 0)
			return 1;
		if (seconds() > option.timeout) {
			if (outstanding)
				failed("%u orders not answered after %g s", outstanding, option.timeout);
			ring_complete(1);
			return 1;
		}
		if (!new && !answered)
			rest();
	}
	/* The last changes may have come after the last walk. */
	if (walk() < 0)
		return 1;
	print_ring();
	return 0;
}

/* Whether the last write of the peer's own is there; says what is missing if `loud`. */
static int plan_complete(const uint8_t *memory, int loud)
{
	uint32_t last = option.fill ? 0 : (uint32_t)option.count - 1;
	uint64_t at = difference(memory, option.size, PEER_PLAN_SEED, last);

	if (at < option.size && loud) {
		failed("never saw the peer's data");
		print_bytes(memory, option.size, at, PEER_PLAN_SEED, last);
	}
	return at == option.size;
}

static int watch(const uint8_t *memory)
{
	while (!plan_complete(memory, 0)) {
		if (seconds() > option.timeout) {
			plan_complete(memory, 1);
			return 1;
		}
		rest();
	}
	printf("the peer's data is there: %llu bytes\n", (unsigned long long)option.size);
	return 0;
}

static int hold(uint8_t *memory)
{
	fill(memory, option.size, PEER_PLAN_SEED);
	while (seconds() < option.timeout)
		rest();
	printf("the pattern is there for the peer to check: %llu bytes\n", (unsigned long long)option.size);
	return 0;
}

/* Whether the peer has added all that it was to add, as the application sees it; says what is there if `loud`. */
static int counter_complete(const uint8_t *memory, int loud)
{
	uint64_t there = *(const volatile uint64_t *)memory;

	if (there != option.count && loud)
		failed("never saw all of what the peer added: expected %llu, found %llu", (unsigned long long)option.count,
		       (unsigned long long)there);
	return there == option.count;
}

static int count(const uint8_t *memory)
{
	while (!counter_complete(memory, 0)) {
		if (seconds() > option.timeout) {
			counter_complete(memory, 1);
			return 1;
		}
		rest();
	}
	printf("the peer's sum is there: %llu\n", (unsigned long long)option.count);
	return 0;
}

static int run(void)
{
	int ring = !option.watch && !option.fill && !option.counter;
	uint8_t *memory;

	if (open_device() || share_memory(ring ? ring_size() : option.size, &memory))
		return 1;
	if (ring)
		make_ring(memory);
	seconds();
	/* One order of each kind for each node. */
	if (connect_peer(4 * option.nodes))
		return 1;
	printf("connected with queue pair %#x of the peer, LID %d\n", option.qpn, PEER_LID);
	int result = ring ? walk_ring() :
		     option.watch ? watch(memory) :
		     option.counter ? count(memory) :
				      hold(memory);

	if (option.dereg) {
		if (unshare_memory())
			return 1;
		int there = ring ? ring_complete(1) :
			    option.counter ? counter_complete(memory, 1) :
					     plan_complete(memory, 1);

		printf("after dereg_mr: the peer's %s is %s\n", option.counter ? "sum" : "data",
		       there ? "there" : "not there");
		result |= !there;
	}
	return result;
}

static int number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-' || *value < low || *value > high) {
		fprintf(stderr, "peer-walk: '%s' is not a number from %llu to %llu\n", text, (unsigned long long)low,
			(unsigned long long)high);
		return 0;
	}
	return 1;
}

static int parse_ops(char *text)
{
	option.ops = 0;
	for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
		unsigned op = WRITE;

		while (op <= READ && strcmp(op_name(op), word))
			op <<= 1;
		if (op > READ) {
			fprintf(stderr, "peer-walk: no operation '%s' (write, add, swap, read)\n", word);
			return 0;
		}
		option.ops |= op;
	}
	return option.ops != 0;
}

static int parse(int argc, char **argv)
{
	static const struct option names[] = {
		{ "op", required_argument, NULL, 'o' },	   { "nodes", required_argument, NULL, 'n' },
		{ "size", required_argument, NULL, 's' },  { "count", required_argument, NULL, 'c' },
		{ "delay", required_argument, NULL, 'd' }, { "timeout", required_argument, NULL, 't' },
		{ "qpn", required_argument, NULL, 'q' },   { "device", required_argument, NULL, 'D' },
		{ "watch", no_argument, NULL, 'w' },	   { "fill", no_argument, NULL, 'f' },
		{ "dereg", no_argument, NULL, 'r' },	   { "counter", no_argument, NULL, 'C' },
		{ "help", no_argument, NULL, 'h' },	   { NULL, 0, NULL, 0 },
	};
	uint64_t nodes = option.nodes, qpn = option.qpn;
	char *end;
	int name, good = 1;

	while (good && (name = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (name) {
		case 'o':
			good = parse_ops(optarg);
			break;
		case 'n':
			good = number(optarg, 1, MAX_NODES, &nodes);
			break;
		case 's':
			good = number(optarg, 8, MAX_SIZE, &option.size) && option.size % 8 == 0;
			break;
		case 'c':
			good = number(optarg, 1, PEER_MAX_REPEAT, &option.count);
			break;
		case 'd':
			good = number(optarg, 0, PEER_MAX_DELAY, &option.delay);
			break;
		case 't':
			option.timeout = strtod(optarg, &end);
			good = end != optarg && !*end && option.timeout > 0;
			break;
		case 'q':
			good = number(optarg, PEER_FIRST_QPN, PEER_FIRST_QPN + PEER_QPN_COUNT - 1, &qpn);
			break;
		case 'D':
			option.device = optarg;
			break;
		case 'w':
			option.watch = 1;
			break;
		case 'f':
			option.fill = 1;
			break;
		case 'C':
			option.counter = 1;
			break;
		case 'r':
			option.dereg = 1;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			good = 0;
		}
	}
	option.nodes = (unsigned)nodes;
	option.qpn = (unsigned)qpn;
	return good && optind == argc && option.fill + option.watch + option.counter <= 1 &&
	       !(option.fill && option.dereg);
}

int main(int argc, char **argv)
{
	if (!parse(argc, argv)) {
		usage(stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	int result = run();

	printf("result: %s\n", result ? "failed" : "ok");
	return result;
}
