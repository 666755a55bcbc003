// adreno-740: conv2d 1x8x8x16x32x3x3x1x1 float16 int8, version 4 of the family
__kernel void main_kernel(__global half* restrict conv2d_scale_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_SNORM_INT8 */, __global float* restrict p2_ptr) {
  int _ptr[4];
  int _ptr_1[1];
  half4 _ptr_2[10];
  half _ptr_3[4];
  __local half _ptr_4[4096];
  half _ptr_5[20];
  half4 _ptr_6[1];
  int _ptr_7[1];
  float _ptr_8[5];
  int _ptr_9[1];
  int cse_v1 = ((convert_int(get_local_id(0))) >> 5);
  int cse_v5 = (((convert_int(get_local_id(0))) >> 5) * 32);
  int v = (((convert_int(get_local_id(0))) >> 5) * 32);
  _ptr[0] = (((convert_int(get_local_id(0))) >> 5) * 32);
  int cse_v2 = ((convert_int(get_local_id(0))) & 31);
  _ptr[1] = (((((convert_int(get_local_id(0))) >> 5) * 32) + (((convert_int(get_local_id(0))) & 7) * 4)) + (((convert_int(get_local_id(0))) & 31) >> 3));
  int cse_v6 = min((int)((convert_int(get_local_id(0))) >> 5), (int)8);
  _ptr[2] = ((((convert_int(get_group_id(1))) * 288) + (min((int)((convert_int(get_local_id(0))) >> 5), (int)8) * 32)) + ((convert_int(get_local_id(0))) & 31));
  int cse_v7 = (min((int)((convert_int(get_local_id(0))) >> 5), (int)8) * 4);
  int cse_v10 = ((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) >> 5), (int)8))) / (uint)3))) * 28);
  int v_1 = (((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) >> 5), (int)8))) / (uint)3))) * 28) + (min((int)((convert_int(get_local_id(0))) >> 5), (int)8) * 4));
  uint cse_v8 = (convert_uint(min((int)((convert_int(get_local_id(0))) & 31), (int)15)));
  _ptr_1[0] = (((((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) & 31), (int)15))) >> (uint)1))) * 40) + ((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) >> 5), (int)8))) / (uint)3))) * 28)) + (min((int)((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) & 31), (int)15))) & (uint)1))) * 5), (int)3) * 4)) + (min((int)((convert_int(get_local_id(0))) >> 5), (int)8) * 4));
  _ptr_2[0] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[1] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[2] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[3] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[4] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[5] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[6] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[7] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[8] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[9] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  int v_2 = min((int)((convert_int(get_local_id(0))) >> 5), (int)8);
  vstore4(read_imageh(p1_ptr, min((int)_ptr[2], (int)1151)), 0, _ptr_3 + 0);
  _ptr[2] = (_ptr[2] + 32);
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4((vload4(0, _ptr_3 + 0) * ((half4)(select((half)0.000000e+00f, (half)1.000000e+00f, (convert_short(((convert_int(get_local_id(0))) < 288)))), select((half)0.000000e+00f, (half)1.000000e+00f, (convert_short(((convert_int(get_local_id(0))) < 288)))), select((half)0.000000e+00f, (half)1.000000e+00f, (convert_short(((convert_int(get_local_id(0))) < 288)))), select((half)0.000000e+00f, (half)1.000000e+00f, (convert_short(((convert_int(get_local_id(0))) < 288))))))), 0, _ptr_4 + (_ptr[1] * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_3 = 0; v_3 < 4; ++v_3) {
    vstore4(read_imageh(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 4)), 0, _ptr_5 + 4);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 8)), 0, _ptr_5 + 8);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 12)), 0, _ptr_5 + 12);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 16)), 0, _ptr_5 + 16);
    int cse_v3 = (v_3 * 4);
    _ptr_6[0] = vload4(0, _ptr_4 + ((_ptr[0] * 4) + (v_3 * 4)));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 16));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 32));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 48));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 64));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 80));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 112));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
  }
  int cse_v9 = min((int)(((convert_int(get_local_id(0))) >> 5) + 1), (int)8);
  _ptr[3] = ((((((convert_int(((convert_uint(min((int)(((convert_int(get_local_id(0))) >> 5) + 1), (int)8))) / (uint)3))) * 28) + (min((int)(((convert_int(get_local_id(0))) >> 5) + 1), (int)8) * 4)) - (min((int)((convert_int(get_local_id(0))) >> 5), (int)8) * 4)) - ((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) >> 5), (int)8))) / (uint)3))) * 28)) - 4);
  _ptr_1[0] = (_ptr_1[0] + _ptr[3]);
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(convert_int(get_local_id(0)))] = (convert_half((convert_int(get_local_id(0)))));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_7[0] = (convert_int(_ptr_4[(convert_int(get_local_id(0)))]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[1], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = 0.000000e+00f;
  for (int v_4 = 0; v_4 < 16; ++v_4) {
    _ptr_8[0] = (_ptr_8[0] + (convert_float(_ptr_4[(((v_4 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[3], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[1] = 0.000000e+00f;
  for (int v_5 = 0; v_5 < 16; ++v_5) {
    _ptr_8[1] = (_ptr_8[1] + (convert_float(_ptr_4[(((v_5 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[4], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[5], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[2] = 0.000000e+00f;
  for (int v_6 = 0; v_6 < 16; ++v_6) {
    _ptr_8[2] = (_ptr_8[2] + (convert_float(_ptr_4[(((v_6 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[6], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[7], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[3] = 0.000000e+00f;
  for (int v_7 = 0; v_7 < 16; ++v_7) {
    _ptr_8[3] = (_ptr_8[3] + (convert_float(_ptr_4[(((v_7 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[8], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[9], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[4] = 0.000000e+00f;
  for (int v_8 = 0; v_8 < 16; ++v_8) {
    _ptr_8[4] = (_ptr_8[4] + (convert_float(_ptr_4[(((v_8 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if ((_ptr_7[0] & 511) < 256) {
    _ptr_4[((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5))] = (convert_half(_ptr_8[0]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 8)] = (convert_half(_ptr_8[1]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 16)] = (convert_half(_ptr_8[2]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 24)] = (convert_half(_ptr_8[3]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 32)] = (convert_half(_ptr_8[4]));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[0] = ((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_9[0] < 1))) { break; }
    if ((((_ptr_9[0] & 1) * 8) + ((_ptr_7[0] & 511) >> 6)) < 5) {
      int cse_v4 = ((convert_int(get_group_id(1))) * 8);
      vstore4((convert_half4((((convert_float4(vload4(0, _ptr_4 + ((((_ptr_9[0] & 1) * 64) + (((_ptr_7[0] & 511) & 31) * 40)) + (((_ptr_7[0] & 511) >> 5) * 4))))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + ((((_ptr_7[0] & 511) & 63) >> 5) * 4)))))), 0, conv2d_scale_ptr + ((((((((convert_int(((convert_uint(min((int)((_ptr_7[0] & 511) & 31), (int)15))) >> (uint)1))) * 256) + ((_ptr_9[0] & 1) * 256)) + (((_ptr_7[0] & 511) >> 6) * 32)) + (min((int)((convert_int(((convert_uint(min((int)((_ptr_7[0] & 511) & 31), (int)15))) & (uint)1))) * 5), (int)3) * 32)) + (((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8)) + ((convert_int(get_group_id(1))) * 8)) + ((((_ptr_7[0] & 511) & 63) >> 5) * 4)));
    }
    _ptr_9[0] = (_ptr_9[0] + 1);
  }
}

