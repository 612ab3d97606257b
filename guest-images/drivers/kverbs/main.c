// SPDX-License-Identifier: GPL-2.0
/*
 * kverbs: an in-kernel user of RDMA devices that checks every byte. On each InfiniBand device it connects two RC queue pairs
 * with each other, in loopback on the port's own LID, and moves messages in both directions by SEND (plain, with immediate,
 * with invalidate), RDMA WRITE, RDMA READ and, where the provider lets the kernel, atomics. Memory is kmalloc()ed and mapped
 * once a run by ib_dma_map_single(); each time it changes hands there is the ib_dma_sync_single_*() that the DMA API asks
 * for. So a run must succeed on coherent and on bounced DMA alike, and on incoherent DMA wherever these calls maintain the
 * CPU's caches (x86 Linux has none that do).
 *
 *	insmod kverbs.ko [iterations=N] [size=BYTES] [operations=send,read,…] …	(`modinfo -p kverbs.ko` lists them)
 *	echo run > /proc/kverbs		run on every device; the write fails if a run does
 *	echo run mlx5_0 > /proc/kverbs	on one
 *	cat /proc/kverbs		what the last run came to
 *
 * The parameters can be changed between runs in /sys/module/kverbs/parameters. A write fails with EIO on a wrong byte or a
 * completion in error, ETIMEDOUT if no completion comes, ENODEV without a device or if it goes away meanwhile, EINVAL on a
 * parameter out of range, EINTR on a signal. The first wrong byte is printed to the kernel log too, with what was expected.
 */

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "kverbs.h"

#define NAME "kverbs"

static struct settings settings = {
	.iterations = 16,
	.size = 4096,
	.sges = 1,
	.operations = BIT(OPERATIONS) - 1,
	.timeout_ms = 5000,
};

module_param_named(iterations, settings.iterations, uint, 0644);
MODULE_PARM_DESC(iterations, "Times that each operation is done in each direction (default 16)");
module_param_named(size, settings.size, uint, 0644);
MODULE_PARM_DESC(size, "Bytes of a message (default 4096)");
module_param_named(sges, settings.sges, uint, 0644);
MODULE_PARM_DESC(sges, "Pieces in which a message is gathered and scattered, 1 to 4 (default 1)");
module_param_cb(operations, &operation_mask_ops, &settings.operations, 0644);
MODULE_PARM_DESC(operations, "Of send,send_imm,send_inv,write,write_imm,read,fetch_add,cmp_swap, or all (default)");
module_param_named(timeout_ms, settings.timeout_ms, uint, 0644);
MODULE_PARM_DESC(timeout_ms, "Milliseconds to wait for a completion (default 5000)");
module_param_named(unsafe_rkey, settings.unsafe_rkey, bool, 0644);
MODULE_PARM_DESC(unsafe_rkey, "Use the global key, not fast registration (no atomics, no send_inv)");
module_param_named(verbose, settings.verbose, bool, 0644);
MODULE_PARM_DESC(verbose, "Log each message");
module_param_named(skip_sync, settings.skip_sync, bool, 0644);
MODULE_PARM_DESC(skip_sync, "A bug, on purpose: look at what has arrived without ib_dma_sync_single_for_cpu()");

/* A device that can be used. */
struct kverbs_device {
	struct list_head entry;
	struct ib_device *ib;
	u32 port;
	bool leaving;
	wait_queue_head_t wait;
	char report[REPORT_SIZE];
};

static LIST_HEAD(devices);
/* Guards the list and the reports; held throughout a run, so that there is one at a time. */
static DEFINE_MUTEX(devices_lock);

static void describe(const struct session *session)
{
	const struct settings *asked = session->settings;
	int id, used;

	used = scnprintf(session->report, REPORT_SIZE,
			 "ok, %u iterations each way, %u bytes in %u pieces, keys by %s, LID %u\n", asked->iterations,
			 asked->size, asked->sges, session->fast ? "fast registration" : "the global key",
			 session->attributes.lid);
	for (id = 0; id < OPERATIONS; id++) {
		if (!(asked->operations & BIT(id)))
			continue;
		if (can(session, &operations[id]))
			used += scnprintf(session->report + used, REPORT_SIZE - used, "  %s: %llu messages, every byte right\n",
					  operations[id].name, session->messages[id]);
		else
			used += scnprintf(session->report + used, REPORT_SIZE - used, "  %s: not offered to the kernel\n",
					  operations[id].name);
	}
}

static int run_on(struct kverbs_device *device, const struct settings *asked)
{
	struct session *session;
	int error;

	session = kzalloc(sizeof(*session), GFP_KERNEL);
	if (!session)
		return -ENOMEM;
	session->ib = device->ib;
	session->port = device->port;
	session->settings = asked;
	session->leaving = &device->leaving;
	session->wait = &device->wait;
	session->report = device->report;

	error = session_open(session);
	if (!error)
		error = run_traffic(session);
	if (!error)
		error = flush(session);
	error = session_close(session, error);
	if (!error)
		describe(session);
	kfree(session);
	return error;
}

/* Runs on the device of this name, or on all; the first error is the answer. */
static int run(const char *name)
{
	struct kverbs_device *device;
	struct settings asked;
	bool found = false;
	int first = 0;

	kernel_param_lock(THIS_MODULE);
	asked = settings;
	kernel_param_unlock(THIS_MODULE);

	if (mutex_lock_interruptible(&devices_lock))
		return -EINTR;
	list_for_each_entry(device, &devices, entry) {
		int error;

		if (name && strcmp(name, dev_name(&device->ib->dev)))
			continue;
		found = true;
		error = run_on(device, &asked);
		first = first ?: error;
	}
	mutex_unlock(&devices_lock);
	return found ? first : -ENODEV;
}

static ssize_t command(struct file *file, const char __user *text, size_t count, loff_t *position)
{
	char buffer[IB_DEVICE_NAME_MAX + 8], *name, *rest;
	int error;

	if (count >= sizeof(buffer))
		return -EINVAL;
	if (copy_from_user(buffer, text, count))
		return -EFAULT;
	buffer[count] = '\0';
	rest = strim(buffer);
	name = strsep(&rest, " ");
	if (strcmp(name, "run"))
		return -EINVAL;
	error = run(rest);
	return error ?: count;
}

static int show(struct seq_file *file, void *unused)
{
	struct kverbs_device *device;

	if (mutex_lock_interruptible(&devices_lock))
		return -EINTR;
	list_for_each_entry(device, &devices, entry)
		seq_printf(file, "%s: %s", dev_name(&device->ib->dev), device->report);
	mutex_unlock(&devices_lock);
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static const struct proc_ops proc_ops = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = command,
};

static struct ib_client client;

static int add_device(struct ib_device *ib)
{
	struct kverbs_device *device;
	u32 port;

	rdma_for_each_port(ib, port)
		if (rdma_protocol_ib(ib, port))
			break;
	if (port > rdma_end_port(ib))
		return -EOPNOTSUPP;
	device = kzalloc(sizeof(*device), GFP_KERNEL);
	if (!device)
		return -ENOMEM;
	device->ib = ib;
	device->port = port;
	init_waitqueue_head(&device->wait);
	strscpy(device->report, "not run yet\n", sizeof(device->report));
	ib_set_client_data(ib, &client, device);

	mutex_lock(&devices_lock);
	list_add_tail(&device->entry, &devices);
	mutex_unlock(&devices_lock);
	return 0;
}

/* The device or the module goes away. A run that is under way on the device ends at its next wait. */
static void remove_device(struct ib_device *ib, void *data)
{
	struct kverbs_device *device = data;

	WRITE_ONCE(device->leaving, true);
	wake_up_all(&device->wait);
	mutex_lock(&devices_lock);
	list_del(&device->entry);
	mutex_unlock(&devices_lock);
	kfree(device);
}

static struct ib_client client = {
	.name = NAME,
	.add = add_device,
	.remove = remove_device,
};

static int __init kverbs_init(void)
{
	int error;

	if (!proc_create(NAME, 0600, NULL, &proc_ops))
		return -ENOMEM;
	error = ib_register_client(&client);
	if (error)
		remove_proc_entry(NAME, NULL);
	return error;
}

static void __exit kverbs_exit(void)
{
	/* Ends a run that is under way; then removing the entry waits for those who are still in its functions. */
	ib_unregister_client(&client);
	remove_proc_entry(NAME, NULL);
}

module_init(kverbs_init);
module_exit(kverbs_exit);

MODULE_DESCRIPTION("RDMA traffic by the kernel, every byte checked");
MODULE_AUTHOR("Staleline developers");
MODULE_LICENSE("GPL");
