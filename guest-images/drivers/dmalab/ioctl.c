// SPDX-License-Identifier: GPL-2.0
/* The character device: each call copied in, done, copied out. */

#include <linux/fs.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "dmalab.h"

/* Longest wait for a descriptor, milliseconds. */
#define MAX_TIMEOUT 60000

static int open(struct inode *inode, struct file *filp)
{
	/* misc_open() has left it there. */
	struct dmalab *lab = container_of(filp->private_data, struct dmalab, misc);
	struct dmalab_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return -ENOMEM;
	kref_get(&lab->references);
	file->lab = lab;
	mutex_init(&file->lock);
	xa_init_flags(&file->buffers, XA_FLAGS_ALLOC1);
	xa_init_flags(&file->mappings, XA_FLAGS_ALLOC1);
	mutex_lock(&lab->files_lock);
	list_add_tail(&file->entry, &lab->files);
	mutex_unlock(&lab->files_lock);
	filp->private_data = file;
	return 0;
}

static int release(struct inode *inode, struct file *filp)
{
	struct dmalab_file *file = filp->private_data;
	struct dmalab *lab = file->lab;

	/* A device that has gone has released everything. */
	down_read(&lab->life);
	if (!lab->gone)
		dmalab_release_all(file);
	mutex_lock(&lab->files_lock);
	list_del(&file->entry);
	mutex_unlock(&lab->files_lock);
	up_read(&lab->life);
	xa_destroy(&file->mappings);
	xa_destroy(&file->buffers);
	kfree(file);
	dmalab_put(lab);
	return 0;
}

static int device_memory(struct dmalab *lab, const struct dmalab_memory *arg)
{
	u8 __user *user = u64_to_user_ptr(arg->data);
	u32 i;

	if (arg->offset > DMALAB_MEMORY_SIZE || arg->length > DMALAB_MEMORY_SIZE - arg->offset)
		return -EINVAL;
	for (i = 0; i < arg->length; i++) {
		void __iomem *at = lab->memory + arg->offset + i;
		u8 byte;

		if (arg->write) {
			if (get_user(byte, user + i))
				return -EFAULT;
			writeb(byte, at);
		} else {
			byte = readb(at);
			if (put_user(byte, user + i))
				return -EFAULT;
		}
	}
	return 0;
}

static int info(struct dmalab *lab, struct dmalab_info *arg)
{
	arg->ring_size = DMALAB_RING_SIZE;
	arg->memory_size = DMALAB_MEMORY_SIZE;
	arg->attributes = lab->attributes;
	return 0;
}

/* Whatever a call takes and gives. */
union argument {
	struct dmalab_info info;
	struct dmalab_alloc alloc;
	u32 handle;
	struct dmalab_map map;
	struct dmalab_segment segment;
	struct dmalab_unmap unmap;
	struct dmalab_sync sync;
	struct dmalab_cpu cpu;
	struct dmalab_flush flush;
	struct dmalab_memory memory;
	struct dmalab_submit submit;
	struct dmalab_wait wait;
	struct dmalab_scenario scenario;
	struct dmalab_scenario_name name;
};

static int call(struct dmalab_file *file, unsigned int command, union argument *arg)
{
	struct dmalab *lab = file->lab;

	switch (command) {
	case DMALAB_INFO:
		return info(lab, &arg->info);
	case DMALAB_ALLOC:
		return dmalab_alloc(file, &arg->alloc);
	case DMALAB_FREE:
		return dmalab_free(file, arg->handle);
	case DMALAB_MAP:
		return dmalab_map(file, &arg->map);
	case DMALAB_SEGMENT:
		return dmalab_segment(file, &arg->segment);
	case DMALAB_UNMAP:
		return dmalab_unmap(file, &arg->unmap);
	case DMALAB_SYNC:
		return dmalab_sync(file, &arg->sync);
	case DMALAB_ACCESS:
		return dmalab_access(file, &arg->cpu);
	case DMALAB_FLUSH:
		return dmalab_flush(file, &arg->flush);
	case DMALAB_MEMORY:
		return device_memory(lab, &arg->memory);
	case DMALAB_SUBMIT:
		return dmalab_submit(lab, &arg->submit.descriptor, &arg->submit.number);
	case DMALAB_WAIT:
		return dmalab_wait(lab, arg->wait.number, min_t(u32, arg->wait.timeout_ms, MAX_TIMEOUT), &arg->wait);
	case DMALAB_SCENARIO:
		return dmalab_scenario(lab, &arg->scenario);
	case DMALAB_NAME:
		return dmalab_scenario_name(&arg->name);
	default:
		return -ENOTTY;
	}
}

static long dmalab_ioctl(struct file *filp, unsigned int command, unsigned long user)
{
	struct dmalab_file *file = filp->private_data;
	size_t size = _IOC_SIZE(command);
	void __user *at = (void __user *)user;
	union argument *arg;
	long error = 0;

	if (size > sizeof(*arg))
		return -ENOTTY;
	arg = kzalloc(sizeof(*arg), GFP_KERNEL);
	if (!arg)
		return -ENOMEM;
	if (_IOC_DIR(command) & _IOC_WRITE && copy_from_user(arg, at, size))
		error = -EFAULT;
	if (!error) {
		down_read(&file->lab->life);
		mutex_lock(&file->lock);
		error = file->lab->gone ? -ENODEV : call(file, command, arg);
		mutex_unlock(&file->lock);
		up_read(&file->lab->life);
	}
	if (!error && _IOC_DIR(command) & _IOC_READ && copy_to_user(at, arg, size))
		error = -EFAULT;
	kfree(arg);
	return error;
}

const struct file_operations dmalab_fops = {
	.owner = THIS_MODULE,
	.open = open,
	.release = release,
	.unlocked_ioctl = dmalab_ioctl,
};
