// SPDX-License-Identifier: GPL-2.0

#include <linux/sched.h>

__rust_helper void rust_helper_get_task_comm(char *buf, struct task_struct *tsk)
{
	strscpy_pad(buf, tsk->comm, TASK_COMM_LEN);
}
