/*
 * The channel between the guest's init and the VMM: frames on the second serial port (/dev/ttyS1, raw).
 * The kernel's console is the first port, so kernel messages never enter the channel; should anything
 * else write to the port, the decoder skips to the next sound header.
 *
 *   offset  size  field
 *   0       1     magic   CHANNEL_MAGIC
 *   1       1     type    one of CHANNEL_READY ... CHANNEL_RUN
 *   2       2     length  of the payload, little-endian, at most CHANNEL_MAX_PAYLOAD
 *   4       1     check   0xff ^ type ^ (length & 0xff) ^ (length >> 8)
 *   5       ...   payload
 *
 * From the guest: STDOUT and STDERR carry bytes of the command's output; EXIT its status and SIGNAL the number of
 * the signal that ended it, both u32 little-endian; READY is empty and is sent once, when the guest is up and
 * waits for its work, or starts the shell; ERROR is a line of text saying why nothing could be run.
 * After EXIT, SIGNAL or ERROR nothing follows: the guest powers off.
 *
 * To the guest, after READY: ARGUMENTS is a part of the command's arguments, each ended by a NUL, in order; RUN is
 * empty and ends the request.
 *
 * The decoder is guest-images/src/channel.rs; its tests compare the numbers with this file.
 */
#define CHANNEL_MAGIC 0xa7
#define CHANNEL_MAX_PAYLOAD 4096

#define CHANNEL_READY 1
#define CHANNEL_STDOUT 2
#define CHANNEL_STDERR 3
#define CHANNEL_EXIT 4
#define CHANNEL_SIGNAL 5
#define CHANNEL_ERROR 6
#define CHANNEL_ARGUMENTS 7
#define CHANNEL_RUN 8
