/*
 * Opening the sockets of a channel. Blocking; at the start of the program.
 */
#ifndef VARVE_QMP_CHANNEL_SOCKET_H
#define VARVE_QMP_CHANNEL_SOCKET_H

#include <gio/gio.h>
#include "qmp/monitor.h"

/* A listening or a connected socket, non-blocking. */
GSocket *channel_socket_open(const struct monitor_channel *how, GError **error);

#endif
