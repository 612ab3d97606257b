/*
 * Puts the DMA exerciser to work: `dmalab list` says what it can do, `dmalab` without arguments how it is called. Exits 0 if every byte
 * was right, 1 if one was wrong, with its address and both values, and 2 if something could not be done.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "attributes.h"
#include "hold.h"
#include "soak.h"

#define ITERATIONS 40
/* One more than dma-debug takes for usual. */
#define OVERLAPS 9

static int usage(void)
{
	fprintf(stderr,
		"usage: dmalab [OPTION…] COMMAND\n"
		"  list                     the scenarios that the driver has\n"
		"  run NAME…                those with these names\n"
		"  bug N                    the one of real bug N\n"
		"  clflush                  a driver that flushes the CPU's caches by hand\n"
		"  clflush-missing WHERE    the same without one flush: before-transmit, before-receive or after-receive\n"
		"  soak [ITERATIONS]        transfers as the DMA API wants them, on every kind of memory (%d by default)\n"
		"  shared [ITERATIONS]      the program's own memory, mapped once and never handed over\n"
		"  overlap [COUNT]          maps one page so many times at once (%d by default)\n"
		"  attributes               what this kernel does with each of them in each mapping function: how it maps, whether\n"
		"                           the device gets the CPU's bytes, the CPU the device's while they are mapped and once\n"
		"                           they are not, and the errors that dma-debug counts, of one mapping and of two of a page\n"
		"  hold                     mappings of every kind, until it is killed\n"
		"  info                     what the device is configured to be\n"
		"options:\n"
		"  --device PATH            /dev/dmalab0 by default\n"
		"  --seed N                 of what is random, 1 by default\n"
		"  --memory KIND            soak: only kmalloc, pages, coherent or user memory; overlap: user by default\n"
		"  --no-snoop, --relaxed    soak, shared: what payload asks for\n"
		"  --attrs LIST             soak, shared, overlap: DMA_ATTR_* of the mappings: weak-ordering, skip-cpu-sync, mmio,\n"
		"                           debugging-ignore-cachelines (or cpu-cache-clean, or cpu-cache-overlap, which it was\n"
		"                           called before) and require-coherent, with commas between, or a number\n"
		"  --clflush                soak, shared: flush the CPU's caches at each transfer of ownership\n",
		ITERATIONS, OVERLAPS);
	return 2;
}

static int failed(const char *what)
{
	fprintf(stderr, "dmalab: %s: %s\n", what, strerror(errno));
	return 2;
}

static int list(struct lab *lab)
{
	struct dmalab_scenario_name name = { .index = 0 };

	for (; !ioctl(lab->fd, DMALAB_NAME, &name); name.index++)
		printf("%-32s %s\n", name.name, name.summary);
	return errno == ENOENT ? 0 : failed("list");
}

static int info(struct lab *lab)
{
	static const char *const words[] = { "off", "as descriptors say", "all payload", "everything" };

	printf("no-snoop: %s\nrelaxed ordering: %s\n", words[lab->info.attributes & 3],
	       words[lab->info.attributes >> 4 & 3]);
	return 0;
}

static int run(struct lab *lab, const char *name, uint64_t seed)
{
	struct dmalab_scenario report = { .seed = seed };
	uint32_t i;

	if (strlen(name) >= sizeof(report.name)) {
		errno = ENOENT;
		return failed(name);
	}
	strcpy(report.name, name);
	if (ioctl(lab->fd, DMALAB_SCENARIO, &report))
		return failed(name);
	for (i = 0; i < report.wrong && i < DMALAB_WRONG_LISTED; i++) {
		struct dmalab_wrong *byte = &report.list[i];

		printf("wrong: the %s finds 0x%02x, not 0x%02x, at bus address %#llx\n",
		       byte->side == DMALAB_DEVICE ? "device" : "CPU", byte->found, byte->expected,
		       (unsigned long long)byte->bus);
	}
	if (report.wrong > DMALAB_WRONG_LISTED)
		printf("and %u more\n", report.wrong - DMALAB_WRONG_LISTED);
	printf("%s: %u of %u bytes wrong\n", name, report.wrong, report.checked);
	return report.wrong != 0;
}

/* A positive count, or what to take instead if none is given; 0 if it is none. */
static unsigned long count_of(const char *text, unsigned long otherwise)
{
	unsigned long count;
	char *end;

	if (!text)
		return otherwise;
	count = strtoul(text, &end, 0);
	return *end || !*text ? 0 : count;
}

static int run_overlap(struct soak *soak, const char *text)
{
	unsigned long count = count_of(text, OVERLAPS);

	/* As many as there are handles and places in a page. */
	if (!count || count > 4095)
		return usage();
	return overlap(soak->lab, soak->only < 0 ? DMALAB_USER : soak->only, soak->attrs, count);
}

static int run_soak(struct soak *soak, const char *name, int (*what)(struct soak *soak), const char *iterations)
{
	soak->iterations = count_of(iterations, ITERATIONS);
	if (!soak->iterations)
		return usage();
	if (what(soak))
		return 2;
	printf("%s: %lu of %lu bytes wrong\n", name, soak->wrong, soak->checked);
	return soak->wrong != 0;
}

static int kind_of(const char *name)
{
	static const char *const kinds[] = { "kmalloc", "pages", "coherent", "user" };
	int i;

	for (i = 0; i < 4; i++)
		if (!strcmp(kinds[i], name))
			return i;
	return -1;
}

int main(int argc, char **argv)
{
	const char *device = NULL, *command;
	uint8_t flags = 0;
	struct soak work = { .seed = 1, .only = -1 };
	struct lab lab;
	char name[64];
	int status = 0;

	for (argv++, argc--; argc && !strncmp(*argv, "--", 2); argv++, argc--) {
		const char *option = *argv;

		if (!strcmp(option, "--no-snoop")) {
			flags |= DMALAB_NO_SNOOP;
		} else if (!strcmp(option, "--relaxed")) {
			flags |= DMALAB_RELAXED;
		} else if (!strcmp(option, "--clflush")) {
			work.flushes = 1;
		} else if (argc < 2) {
			return usage();
		} else {
			argv++, argc--;
			if (!strcmp(option, "--device"))
				device = *argv;
			else if (!strcmp(option, "--seed"))
				work.seed = strtoull(*argv, NULL, 0);
			else if (!strcmp(option, "--attrs") && !attributes_of(*argv, &work.attrs))
				continue;
			else if (strcmp(option, "--memory") || (work.only = kind_of(*argv)) < 0)
				return usage();
		}
	}
	if (!argc)
		return usage();
	command = *argv;
	if (lab_open(&lab, device))
		return failed(device ? device : "/dev/dmalab0");
	lab.flags = flags;
	work.lab = &lab;
	if (!strcmp(command, "list") && argc == 1) {
		status = list(&lab);
	} else if (!strcmp(command, "info") && argc == 1) {
		status = info(&lab);
	} else if (!strcmp(command, "run") && argc > 1) {
		for (argv++; *argv; argv++) {
			int one = run(&lab, *argv, work.seed);

			status = one > status ? one : status;
		}
	} else if (!strcmp(command, "clflush") && argc == 1) {
		status = run(&lab, "clflush", work.seed);
	} else if ((!strcmp(command, "bug") || !strcmp(command, "clflush-missing")) && argc == 2) {
		snprintf(name, sizeof(name), "%s%s%s", command, strcmp(command, "bug") ? "-" : "", argv[1]);
		status = run(&lab, name, work.seed);
	} else if (!strcmp(command, "hold") && argc == 1) {
		status = hold(&lab);
	} else if (!strcmp(command, "attributes") && argc == 1) {
		status = attributes(&lab, work.seed);
	} else if (!strcmp(command, "overlap") && argc <= 2) {
		status = run_overlap(&work, argv[1]);
	} else if (!strcmp(command, "soak") && argc <= 2) {
		status = run_soak(&work, command, soak, argv[1]);
	} else if (!strcmp(command, "shared") && argc <= 2) {
		status = run_soak(&work, command, shared, argv[1]);
	} else {
		status = usage();
	}
	lab_close(&lab);
	return status;
}
