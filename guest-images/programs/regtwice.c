/*
 * Registers one page twice with the first RDMA device: [P, P + 0x1000) and then [P + 1, P + 0x1000), both for
 * local writing. The two scatter lists start in the same cache line, which dma-debug reports as overlapping
 * mappings. With --once the second registration is left out.
 *
 * Prints one line for each result and exits 0 if all that was asked for succeeded.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 0x1000

/* dma-debug's error counter; -1 if this kernel has none. */
static long error_count(void)
{
	FILE *file = fopen("/sys/kernel/debug/dma-api/error_count", "r");
	long count = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &count) != 1)
		count = -1;
	fclose(file);
	return count;
}

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
	int once = argc == 2 && strcmp(argv[1], "--once") == 0;

	if (argc > 1 && !once) {
		fprintf(stderr, "usage: regtwice [--once]\n");
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
	struct ibv_mr *first = reg(pd, page, 0, PAGE);
	struct ibv_mr *second = once ? NULL : reg(pd, page, 1, PAGE - 1);
	long after = error_count();

	if (before >= 0 && after >= 0)
		printf("dma-api error_count: %ld -> %ld\n", before, after);
	else
		printf("dma-api error_count: not in this kernel\n");

	int ok = first && (once || second);
	if (second && ibv_dereg_mr(second))
		ok = !failed("dereg_mr second");
	if (first && ibv_dereg_mr(first))
		ok = !failed("dereg_mr first");
	ibv_dealloc_pd(pd);
	ibv_close_device(context);
	ibv_free_device_list(list);
	printf("result: %s\n", ok ? "ok" : "failed");
	return ok ? 0 : 1;
}
