/*
 * Errors of the control path.
 *
 * Every control-path function that a user can make fail returns bool or a
 * pointer and takes a GError **. The code of the error is the class that QMP
 * reports; nearly all are ERROR_GENERIC.
 */
#ifndef VARVE_UTIL_ERROR_H
#define VARVE_UTIL_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#include <glib.h>

#define VARVE_ERROR varve_error_quark()
GQuark varve_error_quark(void);

/* The error classes of QMP (QMP specification, "2.4.2 error"). */
enum error_class {
    ERROR_GENERIC,
    ERROR_COMMAND_NOT_FOUND,
    ERROR_DEVICE_NOT_ACTIVE,
    ERROR_DEVICE_NOT_FOUND,
    ERROR_KVM_MISSING_CAP,
};

/* "GenericError", "DeviceNotFound", ...; any foreign GError is generic. */
const char *error_class_str(const GError *error);

/* Set *error (if error is not NULL) and return false, so that a failing
 * function can say `return error_set(error, ...)`. */
bool error_set(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
bool error_set_class(GError **error, enum error_class cls, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);
/* As error_set(), with ": " and the text of errnum (positive or negative)
 * after the message. */
bool error_set_errno(GError **error, int errnum, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);
/* Adds a line for people to an error that is set: what they might do. QMP
 * leaves it out. Nothing happens if error is NULL. */
void error_add_hint(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Bytes of the message without the hint. */
size_t error_desc_length(const GError *error);

#endif
