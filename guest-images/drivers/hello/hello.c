// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest out-of-tree module: says which kernel it was built for and what it was told. Loading it shows that a tree
 * for modules, a compiler and a guest's kernel fit together.
 */

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/utsname.h>
#include <generated/utsrelease.h>

static char *name = "world";
module_param(name, charp, 0444);
MODULE_PARM_DESC(name, "Whom to greet");

static int __init hello_init(void)
{
	pr_info("hello: %s, built for %s, running on %s\n", name, UTS_RELEASE, init_utsname()->release);
	return 0;
}

static void __exit hello_exit(void)
{
	pr_info("hello: goodbye, %s\n", name);
}

module_init(hello_init);
module_exit(hello_exit);

MODULE_DESCRIPTION("Out-of-tree module that greets");
MODULE_AUTHOR("Staleline developers");
MODULE_LICENSE("GPL");
