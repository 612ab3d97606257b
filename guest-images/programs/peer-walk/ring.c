/* The shared ring: what the peer is asked to do to it, and what the walker finds. */
#include <stdio.h>

#include "peer-walk.h"

#define CACHE_LINE 64
/* A node that does not look whole is looked at so often before it counts as damaged. */
#define LOOKS 1000

/* Whose turn it is: the peer takes it by compare and swap, the walker gives it back. */
enum { WALKERS_TURN = 0, PEERS_TURN = 1 };

struct node {
	struct node *next;
	/* The peer adds 1 after each of its writes. */
	uint64_t updates __attribute__((aligned(CACHE_LINE)));
	uint64_t turn __attribute__((aligned(CACHE_LINE)));
	/* `size` bytes that the peer writes, then as many that it reads. */
	uint8_t bytes[] __attribute__((aligned(CACHE_LINE)));
};

/* What the walker knows about a node. */
struct knowledge {
	/* Newest repetition seen, -1 if none, and how many different ones. */
	int64_t newest;
	uint64_t distinct;
	/* How often the peer's turn has been found. */
	uint64_t turns;
	/* Rounds of READ that the peer has found right. */
	uint64_t rounds;
};

static uint8_t *memory;
static struct knowledge known[MAX_NODES];

static size_t node_size(void)
{
	return (sizeof(struct node) + 2 * option.size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

size_t ring_size(void)
{
	return node_size() * option.nodes;
}

static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static struct node *node_at(unsigned index)
{
	return (struct node *)(memory + index * node_size());
}

static unsigned index_of(const struct node *node)
{
	return (unsigned)((size_t)((const uint8_t *)node - memory) / node_size());
}

/* Seeds differ from node to node, and those of what the peer reads from round to round. */
static uint64_t write_seed(unsigned index)
{
	return 0x57a1e11e00000000ull + index;
}

static uint64_t read_seed(unsigned index, uint64_t round)
{
	return 0x0ddba11000000000ull + (round << 8) + index;
}

/* Linked against the order of addresses. */
void make_ring(uint8_t *at)
{
	memory = at;
	for (unsigned i = 0; i < option.nodes; i++) {
		node_at(i)->next = node_at((i + option.nodes - 1) % option.nodes);
		known[i].newest = -1;
	}
}

/* An order for a node; the cookie tells which one it was. */
static int order(unsigned index, unsigned op, struct peer_order order)
{
	order.delay = option.delay;
	order.cookie = index | (uint64_t)op << 32;
	return give_order(order);
}

/* The walker changes what the peer is about to read. */
static int order_read(unsigned index)
{
	uint8_t *bytes = node_at(index)->bytes + option.size;
	uint64_t seed = read_seed(index, known[index].rounds);

	fill(bytes, option.size, seed);
	return order(index, READ, (struct peer_order){
		.op = PEER_CHECK, .address = (uintptr_t)bytes, .length = option.size, .operand = seed, .repeat = 1,
	});
}

int give_orders(void)
{
	uint32_t count = (uint32_t)option.count;

	for (unsigned i = 0; i < option.nodes; i++) {
		struct node *node = node_at(i);

		/* The addition comes after the write: the counter never runs ahead of the data. */
		if (option.ops & WRITE && order(i, WRITE, (struct peer_order){
			.op = PEER_WRITE, .address = (uintptr_t)node->bytes, .length = option.size,
			.operand = write_seed(i), .repeat = count,
		}))
			return 1;
		if (option.ops & ADD && order(i, ADD, (struct peer_order){
			.op = PEER_FETCH_ADD, .address = (uintptr_t)&node->updates, .length = 8,
			.operand = 1, .repeat = count,
		}))
			return 1;
		if (option.ops & SWAP && order(i, SWAP, (struct peer_order){
			.op = PEER_COMPARE_SWAP, .address = (uintptr_t)&node->turn, .length = 8,
			.operand = WALKERS_TURN, .swap = PEERS_TURN, .repeat = count,
		}))
			return 1;
		if (option.ops & READ && order_read(i))
			return 1;
	}
	return 0;
}

int take_answer(const struct peer_answer *answer)
{
	unsigned index = (uint32_t)answer->cookie, op = (unsigned)(answer->cookie >> 32);
	uint64_t times = op == READ ? 1 : option.count;

	if (index >= option.nodes)
		return failed("an answer to an order that was not given");
	if (answer->status == PEER_MISMATCH) {
		failed("node %u: the peer has read something else than what was written (round %llu)", index,
		       (unsigned long long)known[index].rounds);
		printf("  at byte %llu: expected", (unsigned long long)answer->offset);
		for (int i = 0; i < 8; i++)
			printf(" %02x", answer->expected[i]);
		printf(", found");
		for (int i = 0; i < 8; i++)
			printf(" %02x", answer->found[i]);
		printf("\n");
		return 1;
	}
	if (answer->status != PEER_DONE || answer->repetitions != times)
		return failed("node %u: %s answered with status %u after %u of %llu times", index, op_name(op),
			      answer->status, answer->repetitions, (unsigned long long)times);
	if (op == ADD && answer->old != option.count - 1)
		return failed("node %u: the last addition found %llu, expected %llu", index,
			      (unsigned long long)answer->old, (unsigned long long)option.count - 1);
	if (op == SWAP && answer->old > PEERS_TURN)
		return failed("node %u: the last swap found %llu, which nobody has stored", index,
			      (unsigned long long)answer->old);
	if (op == READ && ++known[index].rounds < option.count)
		return order_read(index);
	return 0;
}

/* Looks at what the peer writes into a node: 1 if there is something new, 0 if not, -1 if it is damaged or old. */
static int look_at_data(const struct node *node)
{
	unsigned index = index_of(node);
	struct knowledge *knowledge = &known[index];
	const uint64_t *first_word = (const uint64_t *)node->bytes;
	uint64_t seed = write_seed(index), at = 0, repetition = 0, updates = 0;
	int look;

	for (look = 0; look < LOOKS; look++) {
		/* The counter first: the data may be newer than it, never older. */
		updates = load(&node->updates);
		uint64_t first = load(first_word);

		if (first == 0 && updates == 0 && knowledge->newest < 0)
			return 0;
		repetition = peer_pattern_repetition(seed, 0, first);
		if (repetition >= option.count)
			repetition = updates ? updates - 1 : 0;
		at = difference(node->bytes, option.size, seed, (uint32_t)repetition);
		/* A write may have come between two bytes; then the first word has changed. */
		if (at == option.size && load(first_word) == first)
			break;
	}
	if (look == LOOKS) {
		failed("node %u: what the peer has written is damaged or missing", index);
		print_bytes(node->bytes, option.size, at, seed, (uint32_t)repetition);
		return -1;
	}
	int64_t wanted = (int64_t)updates - 1 > knowledge->newest ? (int64_t)updates - 1 : knowledge->newest;

	if ((int64_t)repetition < wanted) {
		failed("node %u: old data: repetition %llu where %lld has been written", index,
		       (unsigned long long)repetition, (long long)wanted);
		print_bytes(node->bytes, option.size, 0, seed, (uint32_t)wanted);
		return -1;
	}
	if ((int64_t)repetition == knowledge->newest)
		return 0;
	knowledge->newest = (int64_t)repetition;
	knowledge->distinct++;
	return 1;
}

int walk(void)
{
	struct node *node = node_at(0);
	int new = 0;

	for (unsigned steps = 0; steps < option.nodes; steps++, node = node->next) {
		if (option.ops & WRITE) {
			int seen = look_at_data(node);

			if (seen < 0)
				return -1;
			new |= seen;
		}
		if (option.ops & SWAP && load(&node->turn) == PEERS_TURN) {
			known[index_of(node)].turns++;
			__atomic_store_n(&node->turn, WALKERS_TURN, __ATOMIC_RELEASE);
			new = 1;
		}
	}
	return new;
}

static int node_complete(unsigned index, int loud)
{
	struct node *node = node_at(index);
	uint32_t last = (uint32_t)option.count - 1;
	uint64_t seed = write_seed(index), updates = load(&node->updates);
	uint64_t at = option.ops & WRITE ? difference(node->bytes, option.size, seed, last) : option.size;

	if (at < option.size) {
		if (loud) {
			failed("node %u: never saw the peer's data", index);
			print_bytes(node->bytes, option.size, at, seed, last);
		}
		return 0;
	}
	if (option.ops & ADD && updates != option.count) {
		if (loud)
			failed("node %u: never saw the peer's data: counter expected %llu, found %llu", index,
			       (unsigned long long)option.count, (unsigned long long)updates);
		return 0;
	}
	if (option.ops & SWAP && known[index].turns == 0) {
		if (loud)
			failed("node %u: never saw the peer's data: it has not taken its turn", index);
		return 0;
	}
	return 1;
}

int ring_complete(int loud)
{
	for (unsigned i = 0; i < option.nodes; i++)
		if (!node_complete(i, loud))
			return 0;
	return 1;
}

void print_ring(void)
{
	for (unsigned i = 0; i < option.nodes; i++) {
		const struct knowledge *knowledge = &known[i];

		printf("node %u", i);
		if (option.ops & WRITE)
			printf(", %llu of %llu writes seen", (unsigned long long)knowledge->distinct,
			       (unsigned long long)option.count);
		if (option.ops & ADD)
			printf(", %llu additions", (unsigned long long)load(&node_at(i)->updates));
		if (option.ops & SWAP)
			printf(", %llu turns taken", (unsigned long long)knowledge->turns);
		if (option.ops & READ)
			printf(", %llu reads right", (unsigned long long)knowledge->rounds);
		printf("\n");
	}
}
