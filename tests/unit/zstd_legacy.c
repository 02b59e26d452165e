/* A frame with the magic of zstd 0.5, 0.6 or 0.7 is an error, never a decoder or a crash. */
#include "../test.h"

#include <zstd.h>

TEST(zstd_frames_of_2016_are_refused)
{
	for (u32 magic = 0xfd2fb525; magic <= 0xfd2fb527; magic++) {
		u8 frame[64], out[256];

		memset(frame, 0x11, sizeof frame);
		st32(frame, magic);
		OK(ZSTD_isError(ZSTD_decompress(out, sizeof out, frame, sizeof frame)));
		OK(ZSTD_isError(ZSTD_findFrameCompressedSize(frame, sizeof frame)));
	}
}
