/*
 * Registers one page several times with the first RDMA device, twice unless `--count N` says otherwise: [P, P + 0x1000),
 * then [P + 1, P + 0x1000) and so on, all for local writing and all kept until the end. All scatter lists start in the same
 * cache line, which dma-debug reports as overlapping mappings.
 *
 * Prints one line for each result and exits 0 if all that was asked for succeeded.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dma-debug.h"

#define PAGE 0x1000
#define MOST 64

static int failed(const char *what)
{
	int error = errno;

	printf("%s: failed, errno %d (%s)\n", what, error, strerror(error));
	return 1;
}

static struct ibv_mr *reg(struct ibv_pd *pd, char *page, size_t offset, size_t length)
{
	errno = 0;
	struct ibv_mr *mr = ibv_reg_mr(pd, page + offset, length, IBV_ACCESS_LOCAL_WRITE);

	if (mr)
		printf("reg_mr page+%zu length 0x%zx: ok, lkey 0x%x\n", offset, length, mr->lkey);
	else
		printf("reg_mr page+%zu length 0x%zx: failed, errno %d (%s)\n", offset, length, errno,
		       strerror(errno));
	return mr;
}

int main(int argc, char **argv)
{
	long count = 2;

	if (argc == 3 && strcmp(argv[1], "--count") == 0)
		count = strtol(argv[2], NULL, 10);
	if ((argc != 1 && argc != 3) || count < 1 || count > MOST) {
		fprintf(stderr, "usage: regtwice [--count N]	register N times, 1 to %d (2)\n", MOST);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);

	int devices = 0;
	struct ibv_device **list = ibv_get_device_list(&devices);

	if (!list || devices == 0) {
		printf("no RDMA device\n");
		return 1;
	}
	struct ibv_context *context = ibv_open_device(list[0]);
	if (!context)
		return failed("open_device");
	printf("device: %s\n", ibv_get_device_name(list[0]));
	struct ibv_pd *pd = ibv_alloc_pd(context);
	if (!pd)
		return failed("alloc_pd");
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return failed("mmap");
	memset(page, 0x5a, PAGE);

	long before = error_count();
	struct ibv_mr *regions[MOST];
	int ok = 1;

	for (long i = 0; i < count; i++) {
		regions[i] = reg(pd, page, (size_t)i, PAGE - (size_t)i);
		ok &= regions[i] != NULL;
	}
	long after = error_count();

	if (before >= 0 && after >= 0)
		printf("dma-api error_count: %ld -> %ld\n", before, after);
	else
		printf("dma-api error_count: not in this kernel\n");

	for (long i = count; i-- > 0;)
		if (regions[i] && ibv_dereg_mr(regions[i]))
			ok = !failed("dereg_mr");
	ibv_dealloc_pd(pd);
	ibv_close_device(context);
	ibv_free_device_list(list);
	printf("result: %s\n", ok ? "ok" : "failed");
	return ok ? 0 : 1;
}
