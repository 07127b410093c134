/*
 * What a server says of an export, which is not believed before it is checked.
 * libnbd drops block sizes that break its own rules; ours are the same, or
 * stricter. On the node's loop; nothing suspends.
 */
#include <inttypes.h>

#include "block/types.h"
#include "nbd/client.h"
#include "util/error.h"
#include "util/range.h"

#define MAX_BLOCK         (INT64_C(1) << 20)
#define DEFAULT_MAX_BLOCK (INT64_C(32) << 20)

static bool has(int answer)
{
    return answer > 0;
}

static int64_t block_size(struct nbd_handle *h, int which)
{
    return nbd_get_block_size(h, which);
}

static bool check_blocks(struct nbd_export_info *info, GError **error)
{
    if (!info->min_block) {
        /* Servers that do not say came before the question. */
        info->min_block =
            is_aligned(info->bytes, BLOCK_SECTOR_SIZE) ? BLOCK_SECTOR_SIZE : 1;
    }
    if (info->min_block < 0 || !is_power_of_2(info->min_block) ||
        info->min_block > MAX_BLOCK) {
        return error_set(error, "Server's minimum block size is %" PRId64,
                         info->min_block);
    }
    if (!is_aligned(info->bytes, info->min_block)) {
        return error_set(
            error,
            "Export length %" PRId64
            " is not a multiple of the minimum block size %" PRId64,
            info->bytes, info->min_block);
    }
    if (info->max_block < 0 || info->opt_block < 0 ||
        (info->max_block && info->max_block < info->min_block)) {
        return error_set(error, "Server's maximum block size is %" PRId64,
                         info->max_block);
    }
    int64_t max = min_i64(info->max_block ? info->max_block : INT64_MAX,
                          DEFAULT_MAX_BLOCK);

    info->max_block = align_down(max, info->min_block);
    return true;
}

bool nbd_client_take_info(struct nbd_client *c, struct nbd_export_info *info,
                          GError **error)
{
    struct nbd_handle *h = c->handle;

    *info = (struct nbd_export_info){
        .bytes = nbd_get_size(h),
        .min_block = block_size(h, LIBNBD_SIZE_MINIMUM),
        .opt_block = block_size(h, LIBNBD_SIZE_PREFERRED),
        .max_block = block_size(h, LIBNBD_SIZE_MAXIMUM),
        .read_only = has(nbd_is_read_only(h)),
        .can_flush = has(nbd_can_flush(h)),
        .can_fua = has(nbd_can_fua(h)),
        .can_trim = has(nbd_can_trim(h)),
        .can_zero = has(nbd_can_zero(h)),
        .can_fast_zero = has(nbd_can_fast_zero(h)),
        .has_status = has(nbd_can_meta_context(h, nbd_client_context(c))),
    };
    if (info->bytes < 0 || info->bytes > BLOCK_MAX_LENGTH) {
        return error_set(error, "Export is too large");
    }
    if (!info->has_status && c->options->u.nbd.x_dirty_bitmap) {
        return error_set(error, "Server has no metadata context '%s'",
                         nbd_client_context(c));
    }
    return check_blocks(info, error);
}

bool nbd_export_is_same(const struct nbd_export_info *was,
                        const struct nbd_export_info *is, GError **error)
{
    if (is->bytes != was->bytes) {
        return error_set(error,
                         "Export has %" PRId64 " bytes now, and had %" PRId64,
                         is->bytes, was->bytes);
    }
    if (is->min_block > was->min_block || is->max_block < was->max_block) {
        return error_set(error,
                         "Server's block sizes are stricter than before");
    }
    return !is->read_only || was->read_only ||
           error_set(error, "Export has become read-only");
}
