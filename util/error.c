/*
 * Errors of the control path: one GError domain whose codes are the error
 * classes of QMP.
 *
 * Pure functions, callable from any thread.
 */
#include "util/error.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

G_DEFINE_QUARK(varve - error - quark, varve_error)
/* The domain of errors whose last line is a hint: a message may have line ends
 * of its own, from a name for instance. */
static GQuark hinted_quark(void)
{
    return g_quark_from_static_string("varve-hinted-error-quark");
}

static const char *const class_names[] = {
    [ERROR_GENERIC] = "GenericError",
    [ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
    [ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    [ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
    [ERROR_KVM_MISSING_CAP] = "KVMMissingCap",
};

const char *error_class_str(const GError *error)
{
    bool ours = error->domain == VARVE_ERROR || error->domain == hinted_quark();

    if (!ours || error->code < 0 ||
        error->code >= (int)G_N_ELEMENTS(class_names)) {
        return class_names[ERROR_GENERIC];
    }
    return class_names[error->code];
}

static void G_GNUC_PRINTF(3, 0) set_valist(GError **error, enum error_class cls,
                                           const char *fmt, va_list ap)
{
    if (error) {
        /* Over an earlier error it warns and keeps that, which is the cause. */
        g_propagate_error(error, g_error_new_valist(VARVE_ERROR, cls, fmt, ap));
    }
}

bool error_set(GError **error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_valist(error, ERROR_GENERIC, fmt, ap);
    va_end(ap);
    return false;
}

bool error_set_class(GError **error, enum error_class cls, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_valist(error, cls, fmt, ap);
    va_end(ap);
    return false;
}

bool error_set_errno(GError **error, int errnum, const char *fmt, ...)
{
    va_list ap;

    if (!error) {
        return false;
    }
    va_start(ap, fmt);
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return error_set(error, "%s: %s", message, g_strerror(abs(errnum)));
}

void error_add_hint(GError **error, const char *fmt, ...)
{
    va_list ap;

    if (!error) {
        return;
    }
    va_start(ap, fmt);
    g_autofree char *hint = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_autofree char *message = (*error)->message;
    (*error)->message = g_strdup_printf("%s\n%s", message, hint);
    (*error)->domain = hinted_quark();
}

size_t error_desc_length(const GError *error)
{
    const char *hint =
        error->domain == hinted_quark() ? strrchr(error->message, '\n') : NULL;

    return hint ? (size_t)(hint - error->message) : strlen(error->message);
}
