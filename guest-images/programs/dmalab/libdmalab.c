#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libdmalab.h"

#define PAGE 4096
#define LINE 64
#define TIMEOUT_MS 30000

int lab_open(struct lab *lab, const char *path)
{
	memset(lab, 0, sizeof(*lab));
	lab->fd = open(path ? path : "/dev/dmalab0", O_RDWR | O_CLOEXEC);
	if (lab->fd < 0)
		return -1;
	return ioctl(lab->fd, DMALAB_INFO, &lab->info);
}

void lab_close(struct lab *lab)
{
	close(lab->fd);
}

/* Bytes of whole pages that hold a DMALAB_USER buffer, and where they begin. */
static uint8_t *pages_of(const struct lab_buffer *buffer, size_t *length)
{
	uint32_t in_page = (uintptr_t)buffer->user % PAGE;

	*length = (in_page + buffer->size + PAGE - 1) / PAGE * PAGE;
	return buffer->user - in_page;
}

int lab_alloc(struct lab *lab, struct lab_buffer *buffer, uint32_t kind, uint32_t size, uint32_t in_page)
{
	struct dmalab_alloc arg = { .kind = kind, .size = size };
	size_t length;
	uint8_t *pages;

	memset(buffer, 0, sizeof(*buffer));
	buffer->kind = kind;
	buffer->size = size;
	if (kind == DMALAB_USER) {
		buffer->user = (uint8_t *)(uintptr_t)(in_page % PAGE);
		pages_of(buffer, &length);
		pages = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			return -1;
		buffer->user = pages + in_page % PAGE;
		arg.user = (uintptr_t)buffer->user;
	}
	if (ioctl(lab->fd, DMALAB_ALLOC, &arg)) {
		if (kind == DMALAB_USER)
			munmap(pages, length);
		return -1;
	}
	buffer->handle = arg.buffer;
	buffer->physical = arg.physical;
	buffer->bus = arg.bus;
	return 0;
}

int lab_free(struct lab *lab, struct lab_buffer *buffer)
{
	int error = ioctl(lab->fd, DMALAB_FREE, &buffer->handle);

	if (!error && buffer->kind == DMALAB_USER) {
		size_t length;
		uint8_t *pages = pages_of(buffer, &length);

		munmap(pages, length);
	}
	return error;
}

int lab_map(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, uint32_t length, uint32_t direction,
	    uint64_t attrs, struct lab_mapping *mapping)
{
	struct dmalab_map arg = {
		.buffer = buffer->handle,
		.offset = offset,
		.length = length,
		.direction = direction,
		.function = lab->function,
		.attrs = attrs,
	};

	*mapping = (struct lab_mapping){ .buffer = buffer, .offset = offset, .length = length, .segments = 1 };
	if (buffer->kind == DMALAB_COHERENT) {
		mapping->bus = buffer->bus + offset;
		return 0;
	}
	if (ioctl(lab->fd, DMALAB_MAP, &arg))
		return -1;
	mapping->handle = arg.mapping;
	mapping->bus = arg.bus;
	mapping->segments = arg.segments;
	return 0;
}

int lab_unmap(struct lab *lab, struct lab_mapping *mapping)
{
	struct dmalab_unmap arg = { .mapping = mapping->handle, .direction = DMALAB_AS_MAPPED };

	return mapping->handle ? ioctl(lab->fd, DMALAB_UNMAP, &arg) : 0;
}

static int sync_mapping(struct lab *lab, const struct lab_mapping *mapping, uint32_t for_device)
{
	struct dmalab_sync arg = {
		.mapping = mapping->handle,
		.for_device = for_device,
		.direction = DMALAB_AS_MAPPED,
	};

	return mapping->handle ? ioctl(lab->fd, DMALAB_SYNC, &arg) : 0;
}

int lab_sync_for_cpu(struct lab *lab, const struct lab_mapping *mapping)
{
	return sync_mapping(lab, mapping, 0);
}

int lab_sync_for_device(struct lab *lab, const struct lab_mapping *mapping)
{
	return sync_mapping(lab, mapping, 1);
}

int lab_bus(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t *bus, uint32_t *left)
{
	struct dmalab_segment segment = { .mapping = mapping->handle };
	uint32_t before = 0;

	if (at >= mapping->length) {
		errno = EINVAL;
		return -1;
	}
	if (mapping->segments == 1) {
		*bus = mapping->bus + at;
		*left = mapping->length - at;
		return 0;
	}
	for (;; segment.index++) {
		if (ioctl(lab->fd, DMALAB_SEGMENT, &segment))
			return -1;
		if (at - before < segment.length)
			break;
		before += segment.length;
	}
	*bus = segment.bus + (at - before);
	*left = segment.length - (at - before);
	return 0;
}

static int kernel_access(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, uintptr_t data,
			 uint32_t length, uint32_t write)
{
	struct dmalab_cpu arg = {
		.buffer = buffer->handle,
		.offset = offset,
		.length = length,
		.write = write,
		.data = data,
	};

	return ioctl(lab->fd, DMALAB_ACCESS, &arg);
}

int lab_cpu_write(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, const void *data, uint32_t length)
{
	if (buffer->kind != DMALAB_USER)
		return kernel_access(lab, buffer, offset, (uintptr_t)data, length, 1);
	memcpy(buffer->user + offset, data, length);
	return 0;
}

int lab_cpu_read(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, void *data, uint32_t length)
{
	if (buffer->kind != DMALAB_USER)
		return kernel_access(lab, buffer, offset, (uintptr_t)data, length, 0);
	memcpy(data, buffer->user + offset, length);
	return 0;
}

int lab_clflush(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, uint32_t length)
{
	struct dmalab_flush arg = {
		.buffer = buffer->handle,
		.offset = offset,
		.length = length,
		.how = DMALAB_CLFLUSH,
	};
	uintptr_t at, end;

	if (buffer->kind != DMALAB_USER)
		return ioctl(lab->fd, DMALAB_FLUSH, &arg);
	end = (uintptr_t)buffer->user + offset + length;
	for (at = ((uintptr_t)buffer->user + offset) & ~(uintptr_t)(LINE - 1); at < end; at += LINE)
		__builtin_ia32_clflush((void *)at);
	__builtin_ia32_mfence();
	return 0;
}

int lab_execute(struct lab *lab, const struct dmalab_descriptor *descriptor, struct dmalab_wait *completion)
{
	struct dmalab_submit submit = { .descriptor = *descriptor };

	if (ioctl(lab->fd, DMALAB_SUBMIT, &submit))
		return -1;
	*completion = (struct dmalab_wait){ .number = submit.number, .timeout_ms = TIMEOUT_MS };
	if (ioctl(lab->fd, DMALAB_WAIT, completion))
		return -1;
	if (completion->status == DMALAB_DONE)
		return 0;
	errno = EIO;
	return -1;
}

static int memory_access(struct lab *lab, uint32_t offset, uintptr_t data, uint32_t length, uint32_t write)
{
	struct dmalab_memory arg = { .offset = offset, .length = length, .write = write, .data = data };

	return ioctl(lab->fd, DMALAB_MEMORY, &arg);
}

int lab_memory_read(struct lab *lab, uint32_t offset, void *data, uint32_t length)
{
	return memory_access(lab, offset, (uintptr_t)data, length, 0);
}

int lab_memory_write(struct lab *lab, uint32_t offset, const void *data, uint32_t length)
{
	return memory_access(lab, offset, (uintptr_t)data, length, 1);
}

/* One descriptor for each piece of a mapping that has no gap; the device's memory is used from its start. */
static int transfer(struct lab *lab, uint8_t operation, const struct lab_mapping *mapping, uint32_t at, uint32_t length)
{
	uint32_t done, piece;

	for (done = 0; done < length; done += piece) {
		struct dmalab_descriptor descriptor = { .operation = operation, .flags = lab->flags };
		struct dmalab_wait completion;
		uint64_t bus;

		if (lab_bus(lab, mapping, at + done, &bus, &piece))
			return -1;
		if (piece > length - done)
			piece = length - done;
		descriptor.length = htole32(piece);
		descriptor.source = htole64(operation == DMALAB_OP_READ ? bus : done);
		descriptor.destination = htole64(operation == DMALAB_OP_READ ? done : bus);
		if (lab_execute(lab, &descriptor, &completion))
			return -1;
	}
	return 0;
}

int lab_device_read(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, void *data, uint32_t length)
{
	if (transfer(lab, DMALAB_OP_READ, mapping, at, length))
		return -1;
	return lab_memory_read(lab, 0, data, length);
}

int lab_device_write(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, const void *data, uint32_t length)
{
	if (lab_memory_write(lab, 0, data, length))
		return -1;
	return transfer(lab, DMALAB_OP_WRITE, mapping, at, length);
}

int lab_device_pattern(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint32_t length, uint64_t seed)
{
	uint32_t done, piece;

	/* Pieces begin at whole words of the pattern, for each to have a seed of its own. */
	for (done = 0; done < length; done += piece) {
		struct dmalab_descriptor descriptor = { .operation = DMALAB_OP_PATTERN, .flags = lab->flags };
		struct dmalab_wait completion;
		uint64_t bus;

		if (lab_bus(lab, mapping, at + done, &bus, &piece))
			return -1;
		if (piece >= length - done)
			piece = length - done;
		else if (piece >= 8)
			piece -= piece % 8;
		else {
			uint8_t word[8];
			uint32_t i, rest = length - done < 8 ? length - done : 8;

			for (i = 0; i < rest; i++)
				word[i] = dmalab_pattern(seed, done + i);
			if (lab_device_write(lab, mapping, at + done, word, rest))
				return -1;
			piece = rest;
			continue;
		}
		descriptor.length = htole32(piece);
		descriptor.destination = htole64(bus);
		descriptor.operand = htole64(seed + done / 8);
		if (lab_execute(lab, &descriptor, &completion))
			return -1;
	}
	return 0;
}

int lab_device_checksum(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint32_t length, uint64_t *sum)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_CHECKSUM,
		.flags = lab->flags,
		.length = htole32(length),
	};
	struct dmalab_wait completion;
	uint64_t bus;
	uint32_t left;

	if (lab_bus(lab, mapping, at, &bus, &left))
		return -1;
	if (left < length) {
		errno = EINVAL;
		return -1;
	}
	descriptor.source = htole64(bus);
	if (lab_execute(lab, &descriptor, &completion))
		return -1;
	*sum = completion.result;
	return 0;
}

static int atomic(struct lab *lab, struct dmalab_descriptor *descriptor, const struct lab_mapping *mapping, uint32_t at,
		  uint64_t *old)
{
	struct dmalab_wait completion;
	uint64_t bus;
	uint32_t left;

	if (lab_bus(lab, mapping, at, &bus, &left))
		return -1;
	descriptor->flags = lab->flags;
	descriptor->destination = htole64(bus);
	if (lab_execute(lab, descriptor, &completion))
		return -1;
	*old = completion.result;
	return 0;
}

int lab_fetch_add(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t add, uint64_t *old)
{
	struct dmalab_descriptor descriptor = { .operation = DMALAB_OP_FETCH_ADD, .operand = htole64(add) };

	return atomic(lab, &descriptor, mapping, at, old);
}

int lab_compare_swap(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t compare, uint64_t swap,
		     uint64_t *old)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_COMPARE_SWAP,
		.operand = htole64(compare),
		.swap = htole64(swap),
	};

	return atomic(lab, &descriptor, mapping, at, old);
}

uint64_t lab_checksum(const void *data, uint32_t length)
{
	const uint8_t *bytes = data;
	uint64_t sum = 0xcbf29ce484222325;
	uint32_t i;

	for (i = 0; i < length; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3;
	return sum;
}
