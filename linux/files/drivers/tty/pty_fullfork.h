/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PTY_FULLFORK_H
#define _PTY_FULLFORK_H

struct fullfork_file_ops;
struct tty_port;
struct tty_struct;

extern const struct fullfork_file_ops pty_fullfork_ops;

#ifdef CONFIG_FULLFORK
void tty_fullfork_register(const struct fullfork_file_ops *ops);
int n_tty_fullfork_copy(struct tty_struct *tty, struct tty_struct *copy);
int tty_buffer_fullfork_copy(struct tty_port *port, struct tty_port *copy);
#endif

#endif /* _PTY_FULLFORK_H */
